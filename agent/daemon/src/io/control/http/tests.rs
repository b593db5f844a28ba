//! The control socket through real connections, with a driver that makes its answers up.

use hyper::service::Service;
use nix::unistd::{Gid, Uid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{super::access::Group, *};

/// Serves on a socket of its own; the driver answers like a node with one router, `game`.
struct Fixture {
    path: std::path::PathBuf,
    _directory: tempfile::TempDir,
    server: JoinSet<()>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(own_group(), driver)
    }

    fn with<D>(access: Access, driver: impl FnOnce(mpsc::Receiver<Request>) -> D) -> Self
    where
        D: Future<Output = ()> + Send + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (requests, receiver) = mpsc::channel(4);
        let mut server = JoinSet::new();
        server.spawn(driver(receiver));
        server.spawn(async move { serve(&listener, requests, access).await });
        Self {
            path,
            _directory: directory,
            server,
        }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    /// Sends `text` and reads all that comes: the status and the body.
    async fn raw(&self, text: &str) -> (u16, String) {
        let mut stream = self.connect().await;
        // The server may answer and close before it has read all of it.
        let _ = stream.write_all(text.as_bytes()).await;
        read_answer(&mut stream).await
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.raw(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.raw(&format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await
    }
}

/// Whoever runs the test may do all.
fn own_group() -> Access {
    let admins = Some(Group {
        name: "own".into(),
        gid: Gid::effective(),
    });
    Access {
        viewers: None,
        admins,
    }
}

async fn read_answer(stream: &mut UnixStream) -> (u16, String) {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return (0, answer);
    };
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

async fn driver(mut requests: mpsc::Receiver<Request>) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Status(reply) => drop(reply),
            Request::Flows { query, reply } => {
                let answer = match query.service.as_deref() {
                    None | Some("game") => Ok(Flows {
                        total: u64::from(query.limit()),
                        flows: Vec::new(),
                    }),
                    Some(other) => Err(format!("no service is called {other:?}")),
                };
                let _ = reply.send(answer);
            }
            Request::Maps(reply) => {
                let _ = reply.send(Ok(Maps { maps: Vec::new() }));
            }
            Request::MapDump { name, from, reply } => {
                let _ = reply.send(Ok(MapDump {
                    name,
                    entries: Vec::new(),
                    next: Some(from),
                }));
            }
            Request::Reload { dry_run, reply } => {
                let _ = reply.send(Ok(Reloaded {
                    changes: vec![format!("dry run: {dry_run}")],
                }));
            }
            Request::Failover { router, reply } => {
                let _ = reply.send(Ok(router.into_iter().collect()));
            }
        }
    }
}

fn error(answer: &(u16, String)) -> String {
    let failure: Failure =
        serde_json::from_str(&answer.1).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    failure.error
}

#[tokio::test]
async fn requests_reach_the_driver_and_its_answers_the_client() {
    let server = Fixture::new();
    let flows = |total: u32| (200, format!(r#"{{"total":{total},"flows":[]}}"#));
    assert_eq!(
        server.get("/v1/flows").await,
        flows(FlowsQuery::DEFAULT_LIMIT)
    );
    assert_eq!(server.get("/v1/flows?service=game&limit=7").await, flows(7));
    assert_eq!(
        server.get("/v1/flows?limit=99999999").await,
        flows(FlowsQuery::MAX_LIMIT)
    );
    assert_eq!(server.get("/v1/maps").await, (200, r#"{"maps":[]}"#.into()));
    assert_eq!(
        server.get("/v1/maps/FLOWS%34?from=12").await,
        (200, r#"{"name":"FLOWS4","entries":[],"next":12}"#.into())
    );
    assert_eq!(
        server.post("/v1/reload?dry_run=true", "").await,
        (200, r#"{"changes":["dry run: true"]}"#.into())
    );
    assert_eq!(
        server
            .post("/v1/failover", r#"{"virtual_router":"game"}"#)
            .await,
        (200, r#"{"message":"gave away game"}"#.into())
    );
}

#[tokio::test]
async fn refusals_are_json_and_say_what_is_wrong() {
    let server = Fixture::new();
    let big = format!(r#"{{"virtual_router":"{}"}}"#, "x".repeat(MAX_BODY));
    let cases = [
        (
            server.get("/v1/nothing").await,
            404,
            "there is no /v1/nothing",
        ),
        (
            server.get("/v1/reload").await,
            405,
            "does not take the method GET",
        ),
        (
            server.post("/v1/status", "").await,
            405,
            "does not take the method POST",
        ),
        (
            server.get("/v1/flows?service=x").await,
            422,
            "no service is called",
        ),
        (server.get("/v1/flows?limit=-1").await, 400, "limit"),
        (
            server.get("/v1/flows?colour=red").await,
            400,
            "unknown field `colour`",
        ),
        (server.get("/v1/maps/%ff").await, 400, "UTF-8"),
        (server.post("/v1/failover", "{").await, 400, "EOF"),
        (
            server.post("/v1/failover", r#"{"router":1}"#).await,
            422,
            "unknown field `router`",
        ),
        (
            server.post("/v1/failover", &big).await,
            413,
            "length limit exceeded",
        ),
        // The fake driver drops the question, as a stopping one does.
        (server.get("/v1/status").await, 503, "steerd is stopping"),
    ];
    for (answer, status, part) in cases {
        assert_eq!(answer.0, status, "{answer:?}");
        assert!(error(&answer).contains(part), "{answer:?}");
    }
    // What never becomes a request is refused without a body.
    assert_eq!(server.get(&format!("/{}", "x".repeat(20_000))).await.0, 431);
    assert_eq!(server.raw("no HTTP at all\r\n\r\n").await.0, 400);
}

/// Not through a connection: its peer would be whoever runs the test, and root may do all.
#[tokio::test]
async fn rights_are_checked_for_each_request() {
    let (requests, receiver) = mpsc::channel(4);
    let _driver = tokio::spawn(driver(receiver));
    let group = |gid| {
        Some(Group {
            name: format!("g{gid}"),
            gid: Gid::from_raw(gid),
        })
    };
    let access = Arc::new(Access {
        viewers: group(10),
        admins: group(20),
    });
    let ask = async |gid: u32, method: &str, path: &str| {
        let peer = Peer {
            uid: Uid::from_raw(1000),
            groups: vec![Gid::from_raw(gid)],
        };
        let (requests, access) = (requests.clone(), Arc::clone(&access));
        let service = TowerToHyperService::new(router(Arc::new(App {
            requests,
            access,
            peer,
        })));
        let request = HttpRequest::builder()
            .method(method)
            .uri(path)
            .body(Body::empty());
        match service.call(request.unwrap()).await {
            Ok(response) => response.status().as_u16(),
        }
    };
    for path in ["/v1/flows", "/v1/maps", "/v1/maps/MACS"] {
        assert_eq!(ask(30, "GET", path).await, 403, "{path}");
        assert_eq!(ask(10, "GET", path).await, 200, "{path}");
        assert_eq!(ask(20, "GET", path).await, 200, "{path}");
    }
    assert_eq!(ask(30, "GET", "/v1/status").await, 403);
    assert_eq!(ask(30, "POST", "/v1/reload").await, 403);
    assert_eq!(ask(10, "POST", "/v1/reload").await, 403);
    assert_eq!(ask(10, "POST", "/v1/reload?dry_run=true").await, 403);
    assert_eq!(ask(20, "POST", "/v1/reload").await, 200);
    assert_eq!(ask(10, "POST", "/v1/failover").await, 403);
    assert_eq!(
        ask(20, "POST", "/v1/failover").await,
        415,
        "let through, but without a body"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_cut() {
    let server = Fixture::new();
    let started = tokio::time::Instant::now();

    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /v1/maps HTTP/1.1\r\nhost")
        .await
        .unwrap();
    assert_eq!(read_answer(&mut stream).await.0, 0, "no head, no answer");
    assert!(started.elapsed() >= REQUEST_TIMEOUT);
    assert!(started.elapsed() < 2 * REQUEST_TIMEOUT);

    let answer = server
        .raw(
            "POST /v1/failover HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: 10\r\n\r\n{",
        )
        .await;
    assert_eq!(answer.0, 503, "{answer:?}");
    assert!(error(&answer).contains("did not finish within 5.0s"));
}

#[tokio::test(start_paused = true)]
async fn a_busy_driver_does_not_hang_the_client() {
    let held = |mut requests: mpsc::Receiver<Request>| async move {
        let mut held = Vec::new();
        while let Some(request) = requests.recv().await {
            held.push(request);
        }
    };
    let server = Fixture::with(own_group(), held);
    assert_eq!(server.get("/v1/status").await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn connections_are_limited() {
    let server = Fixture::new();
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(server.connect().await);
    }
    assert_eq!(server.get("/v1/maps").await.0, 0, "one too many");
    // The idle ones are cut, so the next is served.
    for mut stream in idle {
        assert_eq!(read_answer(&mut stream).await.0, 0);
    }
    assert_eq!(server.get("/v1/maps").await.0, 200);
}

#[tokio::test]
async fn ends_with_the_driver() {
    let mut server = Fixture::with(Access::default(), |requests| async move {
        drop(requests);
    });
    while let Some(ended) = server.server.join_next().await {
        ended.unwrap();
    }
}
