//! The extensions of the API that this server has, in the order in which they came to be.
//!
//! An extension stands here when everything that it promises works; clients look before they ask.

/// All of them.
pub const ALL: &[&str] = &[
    "etag",
    "patch",
    "network",
    "profile_usedby",
    "certificate_update",
    "network_firewall_filtering",
    "network_routes",
    "storage",
    "network_dhcp_expiry",
    "image_create_aliases",
    "entity_description",
    "network_dhcp_gateway",
    "network_leases",
    "operation_description",
    "clustering",
    "event_lifecycle",
    "storage_api_remote_volume_handling",
    "clustering_join",
    "network_state",
    "network_hwaddr",
    "projects",
    "clustering_server_address",
    "clustering_image_replication",
    "network_leases_location",
    "event_location",
    "network_nat_address",
    "image_types",
    "clustering_roles",
    "images_expiry",
    "image_profiles",
    "clustering_architecture",
    "api_filtering",
    "clustering_sizing",
    "clustering_edit_roles",
    "network_dns_search",
    "clustering_failure_domains",
    "network_type_macvlan",
    "network_state_vlan",
    "certificate_project",
    "projects_restricted_cluster_target",
    "warnings",
    "clustering_join_token",
    "clustering_description",
    "clustering_update_cert",
    "server_instance_driver_operational",
    "event_lifecycle_requestor_address",
    "clustering_config",
    "certificate_self_renewal",
    "clustering_groups",
    "event_project",
    "certificate_token",
    "images_all_projects",
    "internal_metrics",
    "cluster_join_token_expiry",
    "remote_token_expiry",
    "cluster_member_state",
    "auth_user",
    "operations_get_query_all_projects",
    "event_lifecycle_name_and_project",
    "operation_wait",
    "certificate_description",
    "image_template_permissions",
    "network_bridge_external_create",
    "networks_all_projects",
    "clustering_groups_config",
    "network_ipv4_dhcp_routes",
    "network_dns_nameservers",
    "cluster_group_usedby",
    "network_bridge_multicast_snooping",
    "image_locations",
];

#[cfg(test)]
mod tests {
    #[test]
    fn each_stands_once_and_incus_knows_it() {
        let mut seen = std::collections::BTreeSet::new();
        assert!(super::ALL.iter().all(|e| seen.insert(e)), "each stands once");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/contract/api-extensions.txt");
        let Ok(known) = std::fs::read_to_string(path) else {
            return eprintln!("SKIPPED: the contract is not here, names of extensions are not compared");
        };
        let known: std::collections::BTreeSet<&str> = known.lines().map(str::trim).collect();
        let unknown: Vec<_> = super::ALL.iter().filter(|e| !known.contains(**e)).collect();
        assert!(unknown.is_empty(), "Incus has no extensions {unknown:?}");
    }
}
