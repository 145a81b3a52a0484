"""Starts that other libraries make from the same modules, beside ours."""
