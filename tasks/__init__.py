"""The Prefect skin: one task a function of understudy."""
