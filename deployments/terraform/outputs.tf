output "aws_roles" {
  description = "ARN of each identity's role."
  value       = module.aws_identities.roles
}

output "gcp_service_accounts" {
  description = "Address of each identity's service account."
  value       = module.gcp_identities.service_accounts
}
