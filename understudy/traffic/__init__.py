"""Which site the service name leads to."""
