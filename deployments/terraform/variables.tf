variable "aws_region" {
  description = "Region of the site in AWS; a bucket may name another one."
  type        = string
}

variable "gcp_project" {
  description = "Project of the site in Google Cloud."
  type        = string
}

variable "gcp_location" {
  description = "Region of the buckets in Google Cloud."
  type        = string
}

variable "policies" {
  description = "The folder that `understudy iam --out` wrote. Made again when the config changes."
  type        = string
  default     = "policies"
}

variable "register" {
  description = "The bucket of the register, in neither site: its name and region."
  type = object({
    bucket = string
    region = string
  })
}

variable "aws_buckets" {
  description = "Buckets in AWS by name. lock_days: nobody deletes a version for so long (the vault); 0 is no lock."
  type = map(object({
    region          = optional(string)
    lock_days       = optional(number, 0)
    noncurrent_days = optional(number, 90)
  }))
  default = {}
}

variable "gcs_buckets" {
  description = "Buckets in Google Cloud by name. soft_delete_days: what was deleted can be brought back for so long."
  type = map(object({
    soft_delete_days = optional(number, 30)
    noncurrent_days  = optional(number, 90)
  }))
  default = {}
}

variable "aws_trusted_principals" {
  description = "Who may take which role in AWS: ARNs by identity, such as the workers' own roles. An identity that is missing here and in aws_oidc gets no role."
  type        = map(list(string))
  default     = {}
}

variable "aws_oidc" {
  description = "For IRSA: the ARN of the cluster's OIDC provider, and by identity the subjects that may take the role, such as system:serviceaccount:understudy:understudy-copies. null is none."
  type = object({
    provider_arn = string
    subjects     = map(list(string))
  })
  default = null
}

variable "gcp_workload_members" {
  description = "Who may act as which service account in Google Cloud, by identity, such as principalSet://iam.googleapis.com/... of a workload identity pool."
  type        = map(list(string))
  default     = {}
}

variable "prefect_api_url" {
  description = "http://HOST:4200/api; null makes no work pools, `make deploy` does."
  type        = string
  default     = null
}
