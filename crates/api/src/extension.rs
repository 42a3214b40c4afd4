//! The extensions of the API that this server has, in the order in which they came to be.
//!
//! An extension stands here when everything that it promises works; clients look before they ask. What a release adds
//! is switched on when all members of a cluster have it.

/// All of them.
pub const ALL: &[&str] = &[
    "container_host_shutdown_timeout",
    "container_stop_priority",
    "auth_pki",
    "container_last_used_at",
    "etag",
    "patch",
    "image_compression_algorithm",
    "directory_manipulation",
    "container_cpu_time",
    "network",
    "profile_usedby",
    "container_exec_recording",
    "certificate_update",
    "container_exec_signal_handling",
    "container_image_properties",
    "network_firewall_filtering",
    "network_routes",
    "storage",
    "file_delete",
    "file_append",
    "network_dhcp_expiry",
    "image_create_aliases",
    "container_stateless_copy",
    "container_only_migration",
    "entity_description",
    "image_force_refresh",
    "id_map_base",
    "file_symlinks",
    "container_edit_metadata",
    "storage_api_volume_rename",
    "console",
    "network_dhcp_gateway",
    "file_get_symlink",
    "network_leases",
    "storage_api_local_volume_handling",
    "operation_description",
    "clustering",
    "event_lifecycle",
    "storage_api_remote_volume_handling",
    "clustering_join",
    "network_state",
    "container_protection_delete",
    "network_hwaddr",
    "container_full",
    "storage_api_volume_snapshots",
    "projects",
    "snapshot_scheduling",
    "snapshot_schedule_aliases",
    "container_copy_project",
    "clustering_server_address",
    "clustering_image_replication",
    "snapshot_expiry",
    "snapshot_expiry_creation",
    "network_leases_location",
    "id_map_current",
    "event_location",
    "network_nat_address",
    "cluster_internal_copy",
    "container_exec_user_group_cwd",
    "container_disk_shift",
    "instances",
    "image_types",
    "clustering_roles",
    "images_expiry",
    "image_profiles",
    "clustering_architecture",
    "api_filtering",
    "instance_nic_network",
    "clustering_sizing",
    "custom_volume_snapshot_expiry",
    "volume_snapshot_scheduling",
    "trust_ca_certificates",
    "clustering_edit_roles",
    "network_dns_search",
    "clustering_failure_domains",
    "network_type_macvlan",
    "network_state_vlan",
    "instance_bulk_state_change",
    "instance_pool_move",
    "storage_volume_state",
    "certificate_project",
    "projects_restricted_cluster_target",
    "project_usage",
    "warnings",
    "clustering_join_token",
    "clustering_description",
    "clustering_update_cert",
    "storage_api_project",
    "server_instance_driver_operational",
    "event_lifecycle_requestor_address",
    "clustering_evacuation",
    "metrics",
    "image_source_project",
    "clustering_config",
    "certificate_self_renewal",
    "instance_project_move",
    "storage_volume_project_move",
    "instance_all_projects",
    "clustering_groups",
    "instance_get_full",
    "event_project",
    "instance_allow_inconsistent_copy",
    "storage_volume_api_filtering",
    "instance_snapshot_never",
    "certificate_token",
    "event_hub",
    "metrics_authentication",
    "images_all_projects",
    "cluster_migration_inconsistent_copy",
    "storage_volume_state_total",
    "instance_file_head",
    "instances_nic_host_name",
    "image_copy_profile",
    "clustering_evacuation_mode",
    "storage_volumes_all_projects",
    "acme",
    "internal_metrics",
    "cluster_join_token_expiry",
    "remote_token_expiry",
    "storage_volumes_created_at",
    "cluster_member_state",
    "instances_placement_scriptlet",
    "instance_generation_id",
    "auth_user",
    "instances_rebuild",
    "operations_get_query_all_projects",
    "event_lifecycle_name_and_project",
    "operation_wait",
    "cluster_internal_custom_volume_copy",
    "instance_move_config",
    "certificate_description",
    "instance_create_start",
    "boot_host_shutdown_action",
    "image_template_permissions",
    "network_bridge_external_create",
    "instances_scriptlet_get_instances",
    "instances_scriptlet_get_cluster_members",
    "instances_scriptlet_get_project",
    "instance_state_started_at",
    "networks_all_projects",
    "instance_access",
    "project_access",
    "clustering_groups_config",
    "instances_scriptlet_get_instances_count",
    "storage_initial_owner",
    "image_import_alias",
    "console_force",
    "network_ipv4_dhcp_routes",
    "network_dns_nameservers",
    "acme_http01_port",
    "instance_publish_split",
    "snapshot_manual_expiry",
    "cluster_group_usedby",
    "network_hwaddr_pattern",
    "file_delete_force",
    "cluster_evacuating_restoring",
    "server_shutdown_action",
    "network_bridge_multicast_snooping",
    "image_locations",
];

/// What a release has added.
#[derive(Clone, Debug)]
pub struct Release {
    /// The version of the schema that it needs.
    pub schema: i64,
    /// The extensions that the release before it did not have; they stand in [`ALL`], too.
    pub added: Vec<String>,
}

/// The releases that members of a cluster may still be waiting for, the newest last. None: nothing was released yet.
pub const RELEASES: &[(i64, &[&str])] = &[];

/// Those of `own`, the extensions of this program, that are not switched on where all members have `common` of them and
/// the database has this version of the schema. `releases` are those that the program can do without, the newest last.
pub fn switched_off(own: usize, releases: &[Release], common: usize, schema: i64) -> Vec<&str> {
    let (mut left, mut off) = (own, Vec::new());
    for release in releases.iter().rev() {
        if release.schema <= schema && left <= common {
            break;
        }
        left -= release.added.len();
        off.extend(release.added.iter().map(String::as_str));
    }
    off
}

#[cfg(test)]
mod tests {
    use super::{Release, switched_off};

    #[test]
    fn what_a_release_has_added_is_switched_on_when_all_have_it() {
        let release =
            |schema, added: &[&str]| Release { schema, added: added.iter().map(|e| (*e).to_owned()).collect() };
        let releases = [release(2, &["a", "b"]), release(2, &["c"]), release(3, &[])];
        for (common, schema, off) in [
            (10, 3, &[][..]),
            (12, 3, &[]),
            (9, 3, &["c"]),
            (7, 3, &["c", "a", "b"]),
            (10, 2, &[]),
            (10, 1, &["c", "a", "b"]),
        ] {
            assert_eq!(switched_off(10, &releases, common, schema), off, "{common} {schema}");
        }
    }

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
