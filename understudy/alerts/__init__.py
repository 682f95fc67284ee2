"""What the monitoring watches and whom it calls."""
