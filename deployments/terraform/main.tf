# Buckets, identities, register and work pools of one service.
#
#   understudy -c config/production.yaml iam --out deployments/terraform/policies
#   terraform -chdir=deployments/terraform init
#   terraform -chdir=deployments/terraform plan -var-file=production.tfvars
#
# No key is made here: workers take roles (AWS) or act as service accounts (workload identity, Google Cloud).

module "register" {
  source = "./modules/aws_bucket"

  name            = var.register.bucket
  region          = var.register.region
  noncurrent_days = 30
}

module "aws_bucket" {
  source   = "./modules/aws_bucket"
  for_each = var.aws_buckets

  name            = each.key
  region          = coalesce(each.value.region, var.aws_region)
  lock_days       = each.value.lock_days
  noncurrent_days = each.value.noncurrent_days
}

module "gcs_bucket" {
  source   = "./modules/gcs_bucket"
  for_each = var.gcs_buckets

  name             = each.key
  location         = var.gcp_location
  soft_delete_days = each.value.soft_delete_days
  noncurrent_days  = each.value.noncurrent_days
}

module "aws_identities" {
  source = "./modules/aws_identities"

  folder             = "${var.policies}/aws"
  trusted_principals = var.aws_trusted_principals
  oidc               = var.aws_oidc
}

module "gcp_identities" {
  source = "./modules/gcp_identities"

  folder           = "${var.policies}/gcp"
  project          = var.gcp_project
  workload_members = var.gcp_workload_members

  depends_on = [module.gcs_bucket]
}

module "prefect_pools" {
  source = "./modules/prefect_pools"
  count  = var.prefect_api_url == null ? 0 : 1
}
