# One service account an identity, with exactly the roles and bindings that `understudy iam` made for it.

terraform {
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 7.0"
    }
  }
}

variable "folder" {
  description = "Of NAME.json, one an identity: member, roles, bindings."
  type        = string
}

variable "project" {
  description = "Where the service accounts live."
  type        = string
}

variable "workload_members" {
  description = "Who may act as the service account, by identity."
  type        = map(list(string))
}

locals {
  grants = {
    for file in fileset(var.folder, "*.json") :
    trimsuffix(file, ".json") => jsondecode(file("${var.folder}/${file}"))
  }
  roles = merge([
    for identity, grant in local.grants : {
      for role in grant.roles : "projects/${role.project}/roles/${role.id}" => role
    }
  ]...)
  bindings = merge([
    for identity, grant in local.grants : {
      for number, binding in grant.bindings : "${identity}-${number}" => merge(binding, { identity = identity })
    }
  ]...)
  of_buckets  = { for key, binding in local.bindings : key => binding if startswith(binding.resource, "gs://") }
  of_projects = { for key, binding in local.bindings : key => binding if startswith(binding.resource, "projects/") }
  workloads = merge([
    for identity, members in var.workload_members : {
      for member in members : "${identity} ${member}" => { identity = identity, member = member }
    }
  ]...)
}

resource "google_service_account" "this" {
  for_each = local.grants

  project      = var.project
  account_id   = "understudy-${each.key}"
  display_name = "Understudy ${each.key}"
}

resource "google_project_iam_custom_role" "this" {
  for_each = local.roles

  project     = each.value.project
  role_id     = each.value.id
  title       = each.value.title
  description = each.value.description
  stage       = each.value.stage
  permissions = each.value.includedPermissions
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = local.of_buckets

  bucket = trimprefix(each.value.resource, "gs://")
  role   = google_project_iam_custom_role.this[each.value.role].name
  member = google_service_account.this[each.value.identity].member

  dynamic "condition" {
    for_each = each.value.condition == null ? [] : [each.value.condition]

    content {
      title      = condition.value.title
      expression = condition.value.expression
    }
  }
}

resource "google_project_iam_member" "this" {
  for_each = local.of_projects

  project = trimprefix(each.value.resource, "projects/")
  role    = google_project_iam_custom_role.this[each.value.role].name
  member  = google_service_account.this[each.value.identity].member

  dynamic "condition" {
    for_each = each.value.condition == null ? [] : [each.value.condition]

    content {
      title      = condition.value.title
      expression = condition.value.expression
    }
  }
}

resource "google_service_account_iam_member" "workload" {
  for_each = local.workloads

  service_account_id = google_service_account.this[each.value.identity].name
  role               = "roles/iam.workloadIdentityUser"
  member             = each.value.member
}

output "service_accounts" {
  value = { for name, account in google_service_account.this : name => account.email }
}
