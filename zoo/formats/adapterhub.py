from pathlib import Path
def is_here(folder: Path) -> bool:
    return False
