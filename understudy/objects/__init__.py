"""Object stores: S3, GCS, a folder and memory behind one interface."""
