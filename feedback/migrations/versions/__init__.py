"""One file a step, oldest first. A step that has been released is never edited."""
