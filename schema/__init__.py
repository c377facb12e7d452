"""What the services, their clients and their queue say to each other.  Pure: bytes and values only."""
