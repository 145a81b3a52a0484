"""Our starts beside those that other libraries make of the same modules."""
