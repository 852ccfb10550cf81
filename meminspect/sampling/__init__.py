"""Reading the machine and its processes from outside."""
