"""The command line: one file per noun; torch is imported in the call, never for help."""
