//! JSON of the API as Starlark values: things with fields (`request.name`), and maps (`request.config["user.x"]`).

use serde_json::Value as Json;
use starlark::values::dict::AllocDict;
use starlark::values::list::AllocList;
use starlark::values::structs::AllocStruct;
use starlark::values::{Heap, Value};

/// Fields of the API that are maps: their keys are data and no names of fields.
const MAPS: [&str; 7] =
    ["config", "devices", "expanded_config", "expanded_devices", "properties", "secrets", "storage_pools"];

/// A thing with fields, or a list of such things, or something simple.
pub fn object<'v>(heap: Heap<'v>, json: &Json) -> Value<'v> {
    match json {
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.as_str(), field(heap, name, value)));
            heap.alloc(AllocStruct(fields))
        }
        Json::Array(all) => objects(heap, all),
        simple => heap.alloc(simple),
    }
}

/// A list of things with fields.
pub fn objects<'v>(heap: Heap<'v>, all: &[Json]) -> Value<'v> {
    heap.alloc(AllocList(all.iter().map(|one| object(heap, one))))
}

fn field<'v>(heap: Heap<'v>, name: &str, value: &Json) -> Value<'v> {
    match value {
        Json::Object(entries) if name == "storage_pools" => {
            heap.alloc(AllocDict(entries.iter().map(|(key, pool)| (key.as_str(), object(heap, pool)))))
        }
        // A device is a map as well.
        map @ Json::Object(_) if MAPS.contains(&name) => heap.alloc(map),
        other => object(heap, other),
    }
}
