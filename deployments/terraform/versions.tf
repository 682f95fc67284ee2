terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
    google = {
      source  = "hashicorp/google"
      version = "~> 7.0"
    }
    prefect = {
      source  = "prefecthq/prefect"
      version = "~> 2.0"
    }
  }
}

provider "aws" {
  region = var.aws_region
}

provider "google" {
  project = var.gcp_project
}

# The key of the Prefect API, where there is one, comes from PREFECT_API_KEY.
provider "prefect" {
  endpoint = var.prefect_api_url
}
