"""Load tester and its peers."""
