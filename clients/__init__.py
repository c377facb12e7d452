"""Who talks to a conn server: the Python client here, the browser's in js/."""
