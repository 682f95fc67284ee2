# A bucket that keeps versions; uniform access, for conditions on object names need it.

terraform {
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 7.0"
    }
  }
}

variable "name" {
  type = string
}

variable "location" {
  type = string
}

variable "soft_delete_days" {
  description = "Days for which what was deleted can be brought back."
  type        = number
}

variable "noncurrent_days" {
  description = "Days after which generations that are no longer live are removed."
  type        = number
}

resource "google_storage_bucket" "this" {
  name                        = var.name
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  versioning {
    enabled = true
  }

  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_days * 24 * 3600
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      days_since_noncurrent_time = var.noncurrent_days
      with_state                 = "ARCHIVED"
    }
  }

  lifecycle {
    prevent_destroy = true
  }
}
