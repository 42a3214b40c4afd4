//! What lies in an instance, or beside it: `/1.0/instances/{name}/files`, `/sftp`, `/logs` and `/metadata`.

use serde_json::Value;

use crate::endpoint::{Allow::*, At, Raw, Sync};
use crate::image::ImageMetadata;

crate::endpoints! {
    /// Get a file, what a link leads to, or the names in a directory, by `?path=`.
    FILE_GET = GET "/1.0/instances/{name}/files" -> Raw, Project, At::Instance, "";
    /// What a file is, in headers.
    FILE_HEAD = HEAD "/1.0/instances/{name}/files" -> Raw, Project, At::Instance, "instance_file_head";
    /// Make or replace a file, a directory or a link.
    FILE_POST = POST "/1.0/instances/{name}/files" -> Raw, Project, At::Instance, "";
    /// Delete a file or a directory.
    FILE_DELETE = DELETE "/1.0/instances/{name}/files" -> Sync<()>, Project, At::Instance, "file_delete";
    /// All files by SFTP: the connection is upgraded to it.
    SFTP = GET "/1.0/instances/{name}/sftp" -> Raw, Project, At::Instance, "";
    /// List the log files.
    LOGS = GET "/1.0/instances/{name}/logs" -> Sync<Vec<String>>, Project, At::Instance, "";
    /// Get a log file.
    LOG_GET = GET "/1.0/instances/{name}/logs/{file}" -> Raw, Project, At::Instance, "";
    /// Delete a log file.
    LOG_DELETE = DELETE "/1.0/instances/{name}/logs/{file}" -> Sync<()>, Project, At::Instance, "";
    /// List the recorded output of programs.
    RECORDED = GET "/1.0/instances/{name}/logs/exec-output" -> Sync<Vec<String>>, Project, At::Instance,
        "container_exec_recording";
    /// Get recorded output.
    RECORDED_GET = GET "/1.0/instances/{name}/logs/exec-output/{file}" -> Raw, Project, At::Instance,
        "container_exec_recording";
    /// Delete recorded output.
    RECORDED_DELETE = DELETE "/1.0/instances/{name}/logs/exec-output/{file}" -> Sync<()>, Project, At::Instance,
        "container_exec_recording";
    /// What its image says of itself.
    METADATA_GET = GET "/1.0/instances/{name}/metadata" -> Sync<ImageMetadata>, Project, At::Instance, "";
    /// Replace what its image says of itself.
    METADATA_PUT = PUT "/1.0/instances/{name}/metadata" (ImageMetadata) -> Sync<()>, Project, At::Instance,
        "container_edit_metadata";
    /// Change some of what its image says of itself.
    METADATA_PATCH = PATCH "/1.0/instances/{name}/metadata" (Value) -> Sync<()>, Project, At::Instance,
        "container_edit_metadata";
    /// List the templates of files, or get one by `?path=`.
    TEMPLATE_GET = GET "/1.0/instances/{name}/metadata/templates" -> Raw, Project, At::Instance,
        "container_edit_metadata";
    /// Make or replace a template of a file.
    TEMPLATE_POST = POST "/1.0/instances/{name}/metadata/templates" -> Raw, Project, At::Instance,
        "container_edit_metadata";
    /// Delete a template of a file.
    TEMPLATE_DELETE = DELETE "/1.0/instances/{name}/metadata/templates" -> Sync<()>, Project, At::Instance,
        "container_edit_metadata";
}
