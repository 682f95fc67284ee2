# One role an identity, with exactly the policies that `understudy iam` made for it: one, or several where one is full.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

variable "folder" {
  description = "Of IDENTITY.json, IDENTITY-2.json and so on, a policy document each."
  type        = string
}

variable "trusted_principals" {
  description = "ARNs that may take the role, by identity."
  type        = map(list(string))
}

variable "oidc" {
  description = "A cluster's OIDC provider, and the subjects that may take the role, by identity (IRSA); null is none."
  type = object({
    provider_arn = string
    subjects     = map(list(string))
  })
  default = null
}

locals {
  found      = { for file in fileset(var.folder, "*.json") : trimsuffix(file, ".json") => split("-", trimsuffix(file, ".json"))[0] }
  subjects   = var.oidc == null ? {} : var.oidc.subjects
  issuer     = var.oidc == null ? "" : element(split(":oidc-provider/", var.oidc.provider_arn), 1)
  identities = setintersection(toset(values(local.found)), toset(concat(keys(var.trusted_principals), keys(local.subjects))))
  policies   = { for name, identity in local.found : name => identity if contains(local.identities, identity) }
}

data "aws_iam_policy_document" "trust" {
  for_each = local.identities

  dynamic "statement" {
    for_each = length(lookup(var.trusted_principals, each.key, [])) > 0 ? [var.trusted_principals[each.key]] : []

    content {
      actions = ["sts:AssumeRole"]

      principals {
        type        = "AWS"
        identifiers = statement.value
      }
    }
  }

  dynamic "statement" {
    for_each = length(lookup(local.subjects, each.key, [])) > 0 ? [local.subjects[each.key]] : []

    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]

      principals {
        type        = "Federated"
        identifiers = [var.oidc.provider_arn]
      }

      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:sub"
        values   = statement.value
      }

      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:aud"
        values   = ["sts.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role" "this" {
  for_each = local.identities

  name                 = "understudy-${each.key}"
  assume_role_policy   = data.aws_iam_policy_document.trust[each.key].json
  max_session_duration = 3600
}

resource "aws_iam_policy" "this" {
  for_each = local.policies

  name   = "understudy-${each.key}"
  policy = file("${var.folder}/${each.key}.json")
}

resource "aws_iam_role_policy_attachment" "this" {
  for_each = local.policies

  role       = aws_iam_role.this[each.value].name
  policy_arn = aws_iam_policy.this[each.key].arn
}

output "roles" {
  value = { for name, role in aws_iam_role.this : name => role.arn }
}
