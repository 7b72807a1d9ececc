"""What a run leaves behind when it is killed: recorded, found and removed."""
