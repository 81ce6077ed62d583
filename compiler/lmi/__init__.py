"""What an LMI container and the machine under it expect."""
