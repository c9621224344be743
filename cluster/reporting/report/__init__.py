"""What `concerto report` shows: runs read from their folders, and the page (`page/`: HTML, CSS and JS as they are)."""
