"""Reports for people: what a judged history looks like on a terminal and on a page."""
