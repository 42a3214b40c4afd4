-- The tables that Incus 7.0 has, by the same names, so that documented queries keep working.
-- Every table has a primary key: without one SQLite's sessions do not see its rows change.
-- There are no triggers, and no defaults that depend on the time: rows are replicated as they are.

CREATE TABLE schema (
    id INTEGER PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL UNIQUE,
    updated_at TEXT NOT NULL
);

CREATE TABLE config (
    id INTEGER PRIMARY KEY NOT NULL,
    key TEXT NOT NULL UNIQUE,
    value TEXT NOT NULL
);

-- Members

CREATE TABLE nodes_failure_domains (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL DEFAULT '',
    address TEXT NOT NULL UNIQUE,
    schema INTEGER NOT NULL,
    api_extensions INTEGER NOT NULL,
    heartbeat TEXT,
    state INTEGER NOT NULL DEFAULT 0,
    arch INTEGER NOT NULL DEFAULT 0,
    failure_domain_id INTEGER REFERENCES nodes_failure_domains (id) ON DELETE SET NULL
);
CREATE TABLE nodes_config (
    id INTEGER PRIMARY KEY NOT NULL,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (node_id, key)
);
CREATE TABLE nodes_roles (
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    role INTEGER NOT NULL,
    PRIMARY KEY (node_id, role)
);
-- Raft ids that were ever given out. Rows stay when their member goes, so that no id comes back.
CREATE TABLE raft_ids (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    node_id INTEGER UNIQUE REFERENCES nodes (id) ON DELETE SET NULL
);
CREATE TABLE cluster_groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL DEFAULT ''
);
CREATE TABLE cluster_groups_config (
    id INTEGER PRIMARY KEY NOT NULL,
    cluster_group_id INTEGER NOT NULL REFERENCES cluster_groups (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (cluster_group_id, key)
);
CREATE TABLE nodes_cluster_groups (
    id INTEGER PRIMARY KEY NOT NULL,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    group_id INTEGER NOT NULL REFERENCES cluster_groups (id) ON DELETE CASCADE,
    UNIQUE (node_id, group_id)
);
CREATE INDEX nodes_cluster_groups_group ON nodes_cluster_groups (group_id);

-- Projects and profiles

CREATE TABLE projects (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL DEFAULT ''
);
CREATE TABLE projects_config (
    id INTEGER PRIMARY KEY NOT NULL,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (project_id, key)
);
CREATE TABLE profiles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    UNIQUE (project_id, name)
);
CREATE TABLE profiles_config (
    id INTEGER PRIMARY KEY NOT NULL,
    profile_id INTEGER NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (profile_id, key)
);
CREATE TABLE profiles_devices (
    id INTEGER PRIMARY KEY NOT NULL,
    profile_id INTEGER NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    type INTEGER NOT NULL DEFAULT 0,
    UNIQUE (profile_id, name)
);
CREATE TABLE profiles_devices_config (
    id INTEGER PRIMARY KEY NOT NULL,
    profile_device_id INTEGER NOT NULL REFERENCES profiles_devices (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (profile_device_id, key)
);

-- Trust

CREATE TABLE certificates (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    fingerprint TEXT NOT NULL UNIQUE,
    type INTEGER NOT NULL,
    name TEXT NOT NULL,
    certificate TEXT NOT NULL,
    restricted INTEGER NOT NULL DEFAULT 0,
    description TEXT NOT NULL DEFAULT ''
);
CREATE TABLE certificates_projects (
    certificate_id INTEGER NOT NULL REFERENCES certificates (id) ON DELETE CASCADE,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    PRIMARY KEY (certificate_id, project_id)
);
CREATE INDEX certificates_projects_project ON certificates_projects (project_id);
-- Tokens by which a member may join or a client may become trusted. Of the secret only a hash is kept.
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    secret_hash TEXT NOT NULL,
    operation TEXT NOT NULL UNIQUE,
    created TEXT NOT NULL,
    expires TEXT,
    body TEXT NOT NULL,
    UNIQUE (kind, name)
);

-- Storage

CREATE TABLE storage_pools (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    driver TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    state INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE storage_pools_nodes (
    id INTEGER PRIMARY KEY NOT NULL,
    storage_pool_id INTEGER NOT NULL REFERENCES storage_pools (id) ON DELETE CASCADE,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    state INTEGER NOT NULL DEFAULT 0,
    UNIQUE (storage_pool_id, node_id)
);
CREATE INDEX storage_pools_nodes_node ON storage_pools_nodes (node_id);
CREATE TABLE storage_pools_config (
    id INTEGER PRIMARY KEY NOT NULL,
    storage_pool_id INTEGER NOT NULL REFERENCES storage_pools (id) ON DELETE CASCADE,
    node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL
);
CREATE UNIQUE INDEX storage_pools_config_key ON storage_pools_config (storage_pool_id, IFNULL(node_id, -1), key);
CREATE INDEX storage_pools_config_node ON storage_pools_config (node_id);
CREATE TABLE storage_volumes (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL,
    storage_pool_id INTEGER NOT NULL REFERENCES storage_pools (id) ON DELETE CASCADE,
    node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE,
    type INTEGER NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    content_type INTEGER NOT NULL DEFAULT 0,
    creation_date TEXT
);
CREATE UNIQUE INDEX storage_volumes_name
    ON storage_volumes (storage_pool_id, type, project_id, name, IFNULL(node_id, -1));
CREATE INDEX storage_volumes_node ON storage_volumes (node_id);
CREATE INDEX storage_volumes_project ON storage_volumes (project_id, type, name);
CREATE TABLE storage_volumes_config (
    id INTEGER PRIMARY KEY NOT NULL,
    storage_volume_id INTEGER NOT NULL REFERENCES storage_volumes (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (storage_volume_id, key)
);
CREATE TABLE storage_volumes_backups (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    storage_volume_id INTEGER NOT NULL REFERENCES storage_volumes (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    creation_date TEXT,
    expiry_date TEXT,
    volume_only INTEGER NOT NULL DEFAULT 0,
    optimized_storage INTEGER NOT NULL DEFAULT 0,
    UNIQUE (storage_volume_id, name)
);
CREATE TABLE storage_volumes_snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    storage_volume_id INTEGER NOT NULL REFERENCES storage_volumes (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    expiry_date TEXT,
    creation_date TEXT,
    UNIQUE (storage_volume_id, name)
);
CREATE TABLE storage_volumes_snapshots_config (
    id INTEGER PRIMARY KEY NOT NULL,
    storage_volume_snapshot_id INTEGER NOT NULL REFERENCES storage_volumes_snapshots (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (storage_volume_snapshot_id, key)
);
CREATE TABLE storage_buckets (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL,
    storage_pool_id INTEGER NOT NULL REFERENCES storage_pools (id) ON DELETE CASCADE,
    node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE,
    description TEXT NOT NULL DEFAULT '',
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX storage_buckets_name ON storage_buckets (storage_pool_id, name, IFNULL(node_id, -1));
CREATE INDEX storage_buckets_node ON storage_buckets (node_id);
CREATE INDEX storage_buckets_project ON storage_buckets (project_id);
CREATE TABLE storage_buckets_config (
    id INTEGER PRIMARY KEY NOT NULL,
    storage_bucket_id INTEGER NOT NULL REFERENCES storage_buckets (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (storage_bucket_id, key)
);
CREATE TABLE storage_buckets_backups (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    storage_bucket_id INTEGER NOT NULL REFERENCES storage_buckets (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    creation_date TEXT,
    expiry_date TEXT,
    UNIQUE (storage_bucket_id, name)
);
CREATE TABLE storage_buckets_keys (
    id INTEGER PRIMARY KEY NOT NULL,
    storage_bucket_id INTEGER NOT NULL REFERENCES storage_buckets (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    access_key TEXT NOT NULL,
    secret_key TEXT NOT NULL,
    role TEXT NOT NULL,
    UNIQUE (storage_bucket_id, name)
);

-- Images

CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    fingerprint TEXT NOT NULL,
    filename TEXT NOT NULL DEFAULT '',
    size INTEGER NOT NULL,
    public INTEGER NOT NULL DEFAULT 0,
    architecture INTEGER NOT NULL,
    creation_date TEXT,
    expiry_date TEXT,
    upload_date TEXT NOT NULL,
    cached INTEGER NOT NULL DEFAULT 0,
    last_use_date TEXT,
    auto_update INTEGER NOT NULL DEFAULT 0,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    type INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, fingerprint)
);
CREATE INDEX images_fingerprint ON images (fingerprint);
CREATE TABLE images_aliases (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL,
    image_id INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    description TEXT NOT NULL DEFAULT '',
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    UNIQUE (project_id, name)
);
CREATE INDEX images_aliases_image ON images_aliases (image_id);
CREATE TABLE images_nodes (
    id INTEGER PRIMARY KEY NOT NULL,
    image_id INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    UNIQUE (image_id, node_id)
);
CREATE INDEX images_nodes_node ON images_nodes (node_id);
CREATE TABLE images_profiles (
    image_id INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    profile_id INTEGER NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
    PRIMARY KEY (image_id, profile_id)
);
CREATE INDEX images_profiles_profile ON images_profiles (profile_id);
CREATE TABLE images_properties (
    id INTEGER PRIMARY KEY NOT NULL,
    image_id INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    type INTEGER NOT NULL DEFAULT 0,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (image_id, key)
);
CREATE TABLE images_source (
    id INTEGER PRIMARY KEY NOT NULL,
    image_id INTEGER NOT NULL UNIQUE REFERENCES images (id) ON DELETE CASCADE,
    server TEXT NOT NULL,
    protocol INTEGER NOT NULL,
    certificate TEXT NOT NULL DEFAULT '',
    alias TEXT NOT NULL
);

-- Instances

CREATE TABLE instances (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    architecture INTEGER NOT NULL,
    type INTEGER NOT NULL,
    ephemeral INTEGER NOT NULL DEFAULT 0,
    creation_date TEXT NOT NULL,
    stateful INTEGER NOT NULL DEFAULT 0,
    last_use_date TEXT,
    description TEXT NOT NULL DEFAULT '',
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    expiry_date TEXT,
    UNIQUE (project_id, name)
);
CREATE INDEX instances_node ON instances (node_id);
CREATE TABLE instances_config (
    id INTEGER PRIMARY KEY NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (instance_id, key)
);
CREATE TABLE instances_devices (
    id INTEGER PRIMARY KEY NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    type INTEGER NOT NULL DEFAULT 0,
    UNIQUE (instance_id, name)
);
CREATE TABLE instances_devices_config (
    id INTEGER PRIMARY KEY NOT NULL,
    instance_device_id INTEGER NOT NULL REFERENCES instances_devices (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (instance_device_id, key)
);
CREATE TABLE instances_profiles (
    id INTEGER PRIMARY KEY NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    profile_id INTEGER NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
    apply_order INTEGER NOT NULL DEFAULT 0,
    UNIQUE (instance_id, profile_id)
);
CREATE INDEX instances_profiles_profile ON instances_profiles (profile_id);
CREATE TABLE instances_backups (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    name TEXT NOT NULL UNIQUE,
    creation_date TEXT,
    expiry_date TEXT,
    container_only INTEGER NOT NULL DEFAULT 0,
    optimized_storage INTEGER NOT NULL DEFAULT 0,
    root_only INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX instances_backups_instance ON instances_backups (instance_id);
CREATE TABLE instances_snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    creation_date TEXT NOT NULL,
    stateful INTEGER NOT NULL DEFAULT 0,
    description TEXT NOT NULL DEFAULT '',
    expiry_date TEXT,
    UNIQUE (instance_id, name)
);
CREATE TABLE instances_snapshots_config (
    id INTEGER PRIMARY KEY NOT NULL,
    instance_snapshot_id INTEGER NOT NULL REFERENCES instances_snapshots (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (instance_snapshot_id, key)
);
CREATE TABLE instances_snapshots_devices (
    id INTEGER PRIMARY KEY NOT NULL,
    instance_snapshot_id INTEGER NOT NULL REFERENCES instances_snapshots (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    type INTEGER NOT NULL DEFAULT 0,
    UNIQUE (instance_snapshot_id, name)
);
CREATE TABLE instances_snapshots_devices_config (
    id INTEGER PRIMARY KEY NOT NULL,
    instance_snapshot_device_id INTEGER NOT NULL REFERENCES instances_snapshots_devices (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (instance_snapshot_device_id, key)
);

-- Networks

CREATE TABLE networks (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    state INTEGER NOT NULL DEFAULT 0,
    type INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, name)
);
CREATE TABLE networks_nodes (
    id INTEGER PRIMARY KEY NOT NULL,
    network_id INTEGER NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    state INTEGER NOT NULL DEFAULT 0,
    UNIQUE (network_id, node_id)
);
CREATE INDEX networks_nodes_node ON networks_nodes (node_id);
CREATE TABLE networks_config (
    id INTEGER PRIMARY KEY NOT NULL,
    network_id INTEGER NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
    node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL
);
CREATE UNIQUE INDEX networks_config_key ON networks_config (network_id, IFNULL(node_id, -1), key);
CREATE INDEX networks_config_node ON networks_config (node_id);
CREATE TABLE networks_acls (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    ingress TEXT NOT NULL DEFAULT '[]',
    egress TEXT NOT NULL DEFAULT '[]',
    UNIQUE (project_id, name)
);
CREATE TABLE networks_acls_config (
    id INTEGER PRIMARY KEY NOT NULL,
    network_acl_id INTEGER NOT NULL REFERENCES networks_acls (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (network_acl_id, key)
);
CREATE TABLE networks_address_sets (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    addresses TEXT NOT NULL DEFAULT '[]',
    description TEXT NOT NULL DEFAULT '',
    UNIQUE (project_id, name)
);
CREATE TABLE networks_address_sets_config (
    id INTEGER PRIMARY KEY NOT NULL,
    network_address_set_id INTEGER NOT NULL REFERENCES networks_address_sets (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (network_address_set_id, key)
);
CREATE TABLE networks_forwards (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    network_id INTEGER NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
    node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE,
    listen_address TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    ports TEXT NOT NULL DEFAULT '[]'
);
CREATE UNIQUE INDEX networks_forwards_listen ON networks_forwards (network_id, IFNULL(node_id, -1), listen_address);
CREATE INDEX networks_forwards_node ON networks_forwards (node_id);
CREATE TABLE networks_forwards_config (
    id INTEGER PRIMARY KEY NOT NULL,
    network_forward_id INTEGER NOT NULL REFERENCES networks_forwards (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (network_forward_id, key)
);
CREATE TABLE networks_integrations (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL DEFAULT '',
    type INTEGER NOT NULL
);
CREATE TABLE networks_integrations_config (
    id INTEGER PRIMARY KEY NOT NULL,
    network_integration_id INTEGER NOT NULL REFERENCES networks_integrations (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (network_integration_id, key)
);
CREATE TABLE networks_load_balancers (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    network_id INTEGER NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
    node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE,
    listen_address TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    backends TEXT NOT NULL DEFAULT '[]',
    ports TEXT NOT NULL DEFAULT '[]'
);
CREATE UNIQUE INDEX networks_load_balancers_listen
    ON networks_load_balancers (network_id, IFNULL(node_id, -1), listen_address);
CREATE INDEX networks_load_balancers_node ON networks_load_balancers (node_id);
CREATE TABLE networks_load_balancers_config (
    id INTEGER PRIMARY KEY NOT NULL,
    network_load_balancer_id INTEGER NOT NULL REFERENCES networks_load_balancers (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (network_load_balancer_id, key)
);
CREATE TABLE networks_peers (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    network_id INTEGER NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    target_network_project TEXT,
    target_network_name TEXT,
    target_network_id INTEGER REFERENCES networks (id) ON DELETE SET NULL,
    type INTEGER NOT NULL DEFAULT 0,
    target_network_integration_id INTEGER REFERENCES networks_integrations (id) ON DELETE SET NULL,
    UNIQUE (network_id, name)
);
CREATE INDEX networks_peers_target ON networks_peers (target_network_id);
CREATE INDEX networks_peers_integration ON networks_peers (target_network_integration_id);
CREATE TABLE networks_peers_config (
    id INTEGER PRIMARY KEY NOT NULL,
    network_peer_id INTEGER NOT NULL REFERENCES networks_peers (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (network_peer_id, key)
);
CREATE TABLE networks_zones (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL DEFAULT ''
);
CREATE INDEX networks_zones_project ON networks_zones (project_id);
CREATE TABLE networks_zones_config (
    id INTEGER PRIMARY KEY NOT NULL,
    network_zone_id INTEGER NOT NULL REFERENCES networks_zones (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (network_zone_id, key)
);
CREATE TABLE networks_zones_records (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    network_zone_id INTEGER NOT NULL REFERENCES networks_zones (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    entries TEXT NOT NULL DEFAULT '[]',
    UNIQUE (network_zone_id, name)
);
CREATE TABLE networks_zones_records_config (
    id INTEGER PRIMARY KEY NOT NULL,
    network_zone_record_id INTEGER NOT NULL REFERENCES networks_zones_records (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    UNIQUE (network_zone_record_id, key)
);

-- What goes on

CREATE TABLE operations (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    uuid TEXT NOT NULL UNIQUE,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    type INTEGER NOT NULL DEFAULT 0,
    project_id INTEGER REFERENCES projects (id) ON DELETE CASCADE
);
CREATE INDEX operations_node ON operations (node_id);
CREATE INDEX operations_project ON operations (project_id);
-- Long operations as plans of steps: `body` is what was decided, `runner` the member that carries it out.
CREATE TABLE plans (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    uuid TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    member INTEGER REFERENCES nodes (id) ON DELETE SET NULL,
    runner INTEGER REFERENCES nodes (id) ON DELETE SET NULL,
    state TEXT NOT NULL,
    created TEXT NOT NULL,
    ended TEXT,
    error TEXT NOT NULL DEFAULT '',
    body TEXT NOT NULL
);
CREATE INDEX plans_member ON plans (member);
CREATE INDEX plans_runner ON plans (runner);
CREATE INDEX plans_state ON plans (state);
CREATE TABLE plan_steps (
    plan_id INTEGER NOT NULL REFERENCES plans (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    started_at TEXT,
    member INTEGER REFERENCES nodes (id) ON DELETE SET NULL,
    result TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (plan_id, number)
);
CREATE INDEX plan_steps_member ON plan_steps (member);
CREATE TABLE warnings (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE,
    project_id INTEGER REFERENCES projects (id) ON DELETE CASCADE,
    entity_type_code INTEGER,
    entity_id INTEGER,
    uuid TEXT NOT NULL UNIQUE,
    type_code INTEGER NOT NULL,
    status INTEGER NOT NULL,
    first_seen_date TEXT NOT NULL,
    last_seen_date TEXT NOT NULL,
    updated_date TEXT,
    last_message TEXT NOT NULL,
    count INTEGER NOT NULL
);
CREATE UNIQUE INDEX warnings_subject ON warnings (
    IFNULL(node_id, -1), IFNULL(project_id, -1), IFNULL(entity_type_code, -1), IFNULL(entity_id, -1), type_code
);
CREATE INDEX warnings_node ON warnings (node_id);
CREATE INDEX warnings_project ON warnings (project_id);

-- What a new server has

INSERT INTO nodes_failure_domains (id, name) VALUES (1, 'default');
INSERT INTO nodes (id, name, address, schema, api_extensions, failure_domain_id)
    VALUES (1, 'none', '0.0.0.0', 1, 0, 1);
INSERT INTO raft_ids (id, node_id) VALUES (1, 1);
INSERT INTO cluster_groups (id, name, description) VALUES (1, 'default', 'Default cluster group');
INSERT INTO nodes_cluster_groups (node_id, group_id) VALUES (1, 1);
INSERT INTO projects (id, name, description) VALUES (1, 'default', 'Default Incus project');
INSERT INTO projects_config (project_id, key, value) VALUES
    (1, 'features.images', 'true'),
    (1, 'features.networks', 'true'),
    (1, 'features.networks.zones', 'true'),
    (1, 'features.profiles', 'true'),
    (1, 'features.storage.buckets', 'true'),
    (1, 'features.storage.volumes', 'true');
INSERT INTO profiles (id, name, description, project_id) VALUES (1, 'default', 'Default Incus profile', 1);
