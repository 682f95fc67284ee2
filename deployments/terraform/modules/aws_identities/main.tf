# One role an identity, with exactly the policy that `understudy iam` made for it.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

variable "folder" {
  description = "Of NAME.json, one policy document an identity."
  type        = string
}

variable "trusted_principals" {
  description = "ARNs that may take the role, by identity."
  type        = map(list(string))
}

locals {
  found      = toset([for file in fileset(var.folder, "*.json") : trimsuffix(file, ".json")])
  identities = setintersection(local.found, keys(var.trusted_principals))
}

data "aws_iam_policy_document" "trust" {
  for_each = local.identities

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = var.trusted_principals[each.key]
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
  for_each = local.identities

  name   = "understudy-${each.key}"
  policy = file("${var.folder}/${each.key}.json")
}

resource "aws_iam_role_policy_attachment" "this" {
  for_each = local.identities

  role       = aws_iam_role.this[each.key].name
  policy_arn = aws_iam_policy.this[each.key].arn
}

output "roles" {
  value = { for name, role in aws_iam_role.this : name => role.arn }
}
