//! Every endpoint, who it is for, and what those are told who may ask.
//!
//! A row is: method, path, who it is for, and pairs of what stands in the `{…}` of the path and the status of the answer.
//! The first pair is about something that exists, the second about something that does not. `!` stands for a request that
//! is not made by those who may, because it would do what it says. Bodies are `{nope`, which no endpoint takes. The words
//! that begin with `$` are filled in by the test.
//!
//! Who: `anyone`, `metrics` (whoever may read metrics), `trusted`, `seen` (trusted, but a restricted client sees only what
//! is its own), `secret` (whoever knows one, and clients that are not restricted), `project`, `admin`, `member`.

pub const TABLE: &str = "
GET    /                                               anyone   =200
GET    /1.0                                            anyone   =200
PUT    /1.0                                            admin    =400
PATCH  /1.0                                            admin    =400
GET    /1.0/events                                     trusted  =400
GET    /1.0/metrics                                    metrics  =200
GET    /.well-known/acme-challenge/{token}             anyone   nope=404

GET    /1.0/certificates                               trusted  =200
POST   /1.0/certificates                               anyone   =400
GET    /1.0/certificates/{fingerprint}                 seen     $client=200 000000000000=404
PUT    /1.0/certificates/{fingerprint}                 admin    $client=400 000000000000=400
PATCH  /1.0/certificates/{fingerprint}                 admin    $client=400 000000000000=400
DELETE /1.0/certificates/{fingerprint}                 admin    $client=! 000000000000=404

GET    /1.0/cluster                                    trusted  =200
PUT    /1.0/cluster                                    admin    =400
PUT    /1.0/cluster/certificate                        admin    =400
GET    /1.0/cluster/members                            trusted  =200
POST   /1.0/cluster/members                            admin    =400
GET    /1.0/cluster/members/{name}                     trusted  server2=200 nope=404
PUT    /1.0/cluster/members/{name}                     admin    server2=400 nope=400
PATCH  /1.0/cluster/members/{name}                     admin    server2=400 nope=400
POST   /1.0/cluster/members/{name}                     admin    server2=400 nope=400
DELETE /1.0/cluster/members/{name}                     admin    server2=! nope=404
GET    /1.0/cluster/members/{name}/state               trusted  server2=200 nope=404
POST   /1.0/cluster/members/{name}/state               admin    server2=400 nope=404
POST   /1.0/cluster/members/{name}/state/plan          admin    server2=400 nope=404
GET    /1.0/cluster/groups                             trusted  =200
POST   /1.0/cluster/groups                             admin    =400
GET    /1.0/cluster/groups/{name}                      trusted  default=200 nope=404
PUT    /1.0/cluster/groups/{name}                      admin    default=400 nope=400
PATCH  /1.0/cluster/groups/{name}                      admin    default=400 nope=400
POST   /1.0/cluster/groups/{name}                      admin    default=400 nope=400
DELETE /1.0/cluster/groups/{name}                      admin    default=! nope=404

GET    /1.0/images                                     anyone   =200
POST   /1.0/images                                     project  =!
GET    /1.0/images/{fingerprint}                       anyone   $image=200 000000000000=404
PUT    /1.0/images/{fingerprint}                       project  $image=400 000000000000=400
PATCH  /1.0/images/{fingerprint}                       project  $image=400 000000000000=400
DELETE /1.0/images/{fingerprint}                       project  $image=! 000000000000=404
POST   /1.0/images/{fingerprint}/refresh               project  $image=! 000000000000=404
GET    /1.0/images/{fingerprint}/export                anyone   $image=! 000000000000=404
POST   /1.0/images/{fingerprint}/secret                project  $image=202 000000000000=404
GET    /1.0/images/aliases                             anyone   =200
POST   /1.0/images/aliases                             project  =400
GET    /1.0/images/aliases/{name}                      anyone   bb=200 nope=404
PUT    /1.0/images/aliases/{name}                      project  bb=400 nope=400
PATCH  /1.0/images/aliases/{name}                      project  bb=400 nope=400
POST   /1.0/images/aliases/{name}                      project  bb=400 nope=400
DELETE /1.0/images/aliases/{name}                      project  bb=! nope=404

GET    /1.0/instances                                  project  =200
POST   /1.0/instances                                  project  =400
PUT    /1.0/instances                                  project  =400
GET    /1.0/instances/{name}                           project  c1=200 nope=404
GET    /1.0/instances/{name}/access                    project  c1=200 nope=404
PUT    /1.0/instances/{name}                           project  c1=400 nope=400
PATCH  /1.0/instances/{name}                           project  c1=400 nope=400
POST   /1.0/instances/{name}                           project  c1=400 nope=400
DELETE /1.0/instances/{name}                           project  c1=! nope=404
POST   /1.0/instances/{name}/rebuild                   project  c1=400 nope=400
GET    /1.0/instances/{name}/state                     project  c1=200 nope=404
PUT    /1.0/instances/{name}/state                     project  c1=400 nope=400
GET    /1.0/instances/{name}/snapshots                 project  c1=200 nope=404
POST   /1.0/instances/{name}/snapshots                 project  c1=400 nope=400
GET    /1.0/instances/{name}/snapshots/{snapshot}      project  c1,s1=200 c1,nope=404
PUT    /1.0/instances/{name}/snapshots/{snapshot}      project  c1,s1=400 nope,s1=400
PATCH  /1.0/instances/{name}/snapshots/{snapshot}      project  c1,s1=400 nope,s1=400
POST   /1.0/instances/{name}/snapshots/{snapshot}      project  c1,s1=400 nope,s1=400
DELETE /1.0/instances/{name}/snapshots/{snapshot}      project  c1,s1=! c1,nope=404
POST   /1.0/instances/{name}/exec                      project  c1=400 nope=400
POST   /1.0/instances/{name}/console                   project  c1=400 nope=400
GET    /1.0/instances/{name}/console                   project  c1=! nope=404
DELETE /1.0/instances/{name}/console                   project  c1=! nope=404
GET    /1.0/instances/{name}/files                     project  c1=400 nope=400
HEAD   /1.0/instances/{name}/files                     project  c1=400 nope=400
POST   /1.0/instances/{name}/files                     project  c1=400 nope=400
DELETE /1.0/instances/{name}/files                     project  c1=400 nope=400
GET    /1.0/instances/{name}/sftp                      project  c1=400 nope=400
GET    /1.0/instances/{name}/logs                      project  c1=200 nope=404
GET    /1.0/instances/{name}/logs/{file}               project  c1,nope=400 nope,lxc.log=404
DELETE /1.0/instances/{name}/logs/{file}               project  c1,nope=400 nope,lxc.log=404
GET    /1.0/instances/{name}/logs/exec-output          project  c1=200 nope=404
GET    /1.0/instances/{name}/logs/exec-output/{file}   project  c1,nope=400 nope,exec_1=404
DELETE /1.0/instances/{name}/logs/exec-output/{file}   project  c1,nope=400 nope,exec_1=404
GET    /1.0/instances/{name}/metadata                  project  c1=200 nope=404
PUT    /1.0/instances/{name}/metadata                  project  c1=400 nope=400
PATCH  /1.0/instances/{name}/metadata                  project  c1=400 nope=400
GET    /1.0/instances/{name}/metadata/templates        project  c1=200 nope=404
POST   /1.0/instances/{name}/metadata/templates        project  c1=400 nope=404
DELETE /1.0/instances/{name}/metadata/templates        project  c1=400 nope=404

GET    /1.0/networks                                   project  =200
POST   /1.0/networks                                   admin    =400
GET    /1.0/networks/{name}                            project  br0=200 nope=404
PUT    /1.0/networks/{name}                            admin    br0=400 nope=400
PATCH  /1.0/networks/{name}                            admin    br0=400 nope=400
POST   /1.0/networks/{name}                            admin    br0=400 nope=400
DELETE /1.0/networks/{name}                            admin    br0=! nope=404
GET    /1.0/networks/{name}/state                      project  br0=200 nope=404
GET    /1.0/networks/{name}/leases                     project  br0=200 nope=404

GET    /1.0/operations                                 trusted  =200
GET    /1.0/operations/{id}                            seen     $token=200 $none=404
DELETE /1.0/operations/{id}                            seen     $token=! $none=404
GET    /1.0/operations/{id}/wait                       seen     $token=! $none=404
GET    /1.0/operations/{id}/websocket                  secret   $token=400 $none=404

GET    /1.0/profiles                                   project  =200
POST   /1.0/profiles                                   project  =400
GET    /1.0/profiles/{name}                            project  default=200 nope=404
PUT    /1.0/profiles/{name}                            project  default=400 nope=400
PATCH  /1.0/profiles/{name}                            project  default=400 nope=400
POST   /1.0/profiles/{name}                            project  default=400 nope=400
DELETE /1.0/profiles/{name}                            project  default=400 nope=404

GET    /1.0/projects                                   trusted  =200
POST   /1.0/projects                                   admin    =400
GET    /1.0/projects/{name}                            seen     default=200 nope=404
GET    /1.0/projects/{name}/access                     seen     default=200 nope=404
GET    /1.0/projects/{name}/state                      seen     default=200 nope=404
PUT    /1.0/projects/{name}                            admin    default=400 nope=400
PATCH  /1.0/projects/{name}                            admin    default=400 nope=400
POST   /1.0/projects/{name}                            admin    default=400 nope=400
DELETE /1.0/projects/{name}                            admin    default=! nope=404

GET    /1.0/storage-pools                              trusted  =200
POST   /1.0/storage-pools                              admin    =400
GET    /1.0/storage-pools/{pool}                       trusted  local=200 nope=404
PUT    /1.0/storage-pools/{pool}                       admin    local=400 nope=400
PATCH  /1.0/storage-pools/{pool}                       admin    local=400 nope=400
DELETE /1.0/storage-pools/{pool}                       admin    local=! nope=404
GET    /1.0/storage-pools/{pool}/resources             trusted  local=200 nope=404

GET    /1.0/storage-pools/{pool}/volumes                                           project  local=200 nope=404
POST   /1.0/storage-pools/{pool}/volumes                                           project  local=400 nope=400
GET    /1.0/storage-pools/{pool}/volumes/{type}                                    project  local,custom=200 nope,custom=404
POST   /1.0/storage-pools/{pool}/volumes/{type}                                    project  local,custom=400 nope,custom=400
GET    /1.0/storage-pools/{pool}/volumes/{type}/{volume}                           project  local,custom,v=200 local,custom,nope=404
PUT    /1.0/storage-pools/{pool}/volumes/{type}/{volume}                           project  local,custom,v=400 local,custom,nope=400
PATCH  /1.0/storage-pools/{pool}/volumes/{type}/{volume}                           project  local,custom,v=400 local,custom,nope=400
POST   /1.0/storage-pools/{pool}/volumes/{type}/{volume}                           project  local,custom,v=400 local,custom,nope=400
DELETE /1.0/storage-pools/{pool}/volumes/{type}/{volume}                           project  local,custom,v=! local,custom,nope=404
GET    /1.0/storage-pools/{pool}/volumes/{type}/{volume}/state                     project  local,custom,v=200 local,custom,nope=404
GET    /1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots                 project  local,custom,v=200 local,custom,nope=404
POST   /1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots                 project  local,custom,v=400 local,custom,nope=400
GET    /1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots/{snapshot}      project  local,custom,v,s1=200 local,custom,v,nope=404
PUT    /1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots/{snapshot}      project  local,custom,v,s1=400 local,custom,v,nope=400
PATCH  /1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots/{snapshot}      project  local,custom,v,s1=400 local,custom,v,nope=400
POST   /1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots/{snapshot}      project  local,custom,v,s1=400 local,custom,v,nope=400
DELETE /1.0/storage-pools/{pool}/volumes/{type}/{volume}/snapshots/{snapshot}      project  local,custom,v,s1=! local,custom,v,nope=404

GET    /1.0/warnings                                   admin    =200
GET    /1.0/warnings/{uuid}                            admin    nope=404
PUT    /1.0/warnings/{uuid}                            admin    nope=400
PATCH  /1.0/warnings/{uuid}                            admin    nope=400
DELETE /1.0/warnings/{uuid}                            admin    nope=404

GET    /internal/ready                                 member   =200
PUT    /internal/shutdown                              member   =!
GET    /internal/sql                                   member   =400
POST   /internal/sql                                   member   =400
GET    /internal/link                                  member   =400
GET    /internal/resources                             member   =200
GET    /internal/instances                             member   =200
POST   /internal/instances/task                        member   =400
POST   /internal/profiles/changed                      member   =400
POST   /internal/pools/remove                          member   =400
GET    /internal/images/{fingerprint}                  member   $image=! 000000000000=400
POST   /internal/images/{fingerprint}                  member   $image=! 000000000000=400
DELETE /internal/images/{fingerprint}                  member   $image=! 000000000000=400
GET    /internal/volumes/{pool}/{kind}/{volume}/stream member   local,custom,v=! nope,custom,v=404
DELETE /internal/volumes/{pool}/{kind}/{volume}        member   local,custom,v=! nope,custom,v=404
POST   /internal/cluster/accept                        anyone   =400
POST   /internal/cluster/preflight                     anyone   =400
POST   /internal/cluster/connect                       member   =400
POST   /internal/cluster/abort                         member   =400
POST   /internal/cluster/reset                         member   =!
GET    /internal/cluster/backup                        member   =!
GET    /internal/cluster/own                           member   =!
DELETE /internal/cluster/raft-node/{address}           member   10.77.0.1:8443=! 10.77.0.9:8443=404
";
