"""What is deployed to Prefect, and the command that does it."""
