"""The three services in one process, over in-memory links and the embedded queue."""
