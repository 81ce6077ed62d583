"""An artifact is a folder that says what it is and proves it: manifest.json, and every file by its digest."""
