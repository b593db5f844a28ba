//! Requests and answers: one connection carries one request, and what comes back is JSON, a
//! refusal included ([`Failure`]).

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{
        DefaultBodyLimit, Path, Query, Request as HttpRequest, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use steerd_core::api::{
    Done, DumpQuery, FailoverRequest, Failure, Flows, FlowsQuery, MapDump, Maps, ReloadQuery,
    Reloaded, Status, human_duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    CONNECTION_LIFETIME, MAX_BODY, MAX_CONNECTIONS, MAX_STRANGERS, REQUEST_TIMEOUT, Request,
    access::{Access, Peer, Right},
};

/// Serves whoever connects to `listener`, until the driver's end of `requests` is gone. Dropping
/// the future cuts all connections.
pub(super) async fn serve(
    listener: &UnixListener,
    requests: mpsc::Sender<Request>,
    access: Access,
) {
    let access = Arc::new(access);
    let members = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = requests.closed() => return,
        };
        let peer = accepted.and_then(|(stream, _)| Ok((Peer::of(&stream)?, stream)));
        let (peer, stream) = match peer {
            Ok(connection) => connection,
            Err(error) => {
                // Out of descriptors, most likely: it stays true for a while, so don't spin.
                tracing::warn!(%error, "control socket: cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let slots = match access.check(&peer, Right::Read) {
            Ok(()) => &members,
            Err(_) => &strangers,
        };
        let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
            tracing::debug!(uid = %peer.uid, "control socket: too many connections, one was cut");
            continue;
        };
        let app = Arc::new(App {
            requests: requests.clone(),
            access: Arc::clone(&access),
            peer,
        });
        connections.spawn(async move {
            let _slot = slot;
            connection(stream, router(app)).await;
        });
    }
}

/// Serves one connection, for as long as one may live.
async fn connection(stream: UnixStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_headers(32)
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_LIFETIME, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "control socket: connection ended early"),
        Err(_) => tracing::debug!("control socket: connection cut, its client reads too slowly"),
    }
}

/// What a request's handler works with.
struct App {
    requests: mpsc::Sender<Request>,
    access: Arc<Access>,
    peer: Peer,
}

type Shared = State<Arc<App>>;
type Answer<T> = Result<Json<T>, Refusal>;

fn router(app: Arc<App>) -> Router {
    let read = |route: MethodRouter<Arc<App>>| guarded(route, Right::Read, &app);
    let change = |route: MethodRouter<Arc<App>>| guarded(route, Right::Change, &app);
    Router::new()
        .route("/v1/status", read(get(status)))
        .route("/v1/flows", read(get(flows)))
        .route("/v1/maps", read(get(maps)))
        .route("/v1/maps/{name}", read(get(map_dump)))
        .route("/v1/reload", change(post(reload)))
        .route("/v1/failover", change(post(failover)))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(in_time))
        .with_state(app)
}

async fn status(State(app): Shared) -> Answer<Status> {
    Ok(Json(app.ask(Request::Status).await?))
}

async fn flows(
    State(app): Shared,
    query: Result<Query<FlowsQuery>, QueryRejection>,
) -> Answer<Flows> {
    let Query(query) = query?;
    app.order(|reply| Request::Flows { query, reply }).await
}

async fn maps(State(app): Shared) -> Answer<Maps> {
    app.order(Request::Maps).await
}

async fn map_dump(
    State(app): Shared,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<DumpQuery>, QueryRejection>,
) -> Answer<MapDump> {
    let (Path(name), Query(DumpQuery { from })) = (name?, query?);
    app.order(|reply| Request::MapDump { name, from, reply })
        .await
}

async fn reload(
    State(app): Shared,
    query: Result<Query<ReloadQuery>, QueryRejection>,
) -> Answer<Reloaded> {
    let Query(ReloadQuery { dry_run }) = query?;
    tracing::info!(uid = %app.peer.uid, dry_run, "reload ordered through the control socket");
    app.order(|reply| Request::Reload { dry_run, reply }).await
}

async fn failover(
    State(app): Shared,
    order: Result<Json<FailoverRequest>, JsonRejection>,
) -> Answer<Done> {
    let Json(FailoverRequest {
        virtual_router: router,
    }) = order?;
    let which = router.as_ref().map_or("all", |router| router.as_str());
    tracing::info!(
        uid = %app.peer.uid,
        router = which,
        "failover ordered through the control socket"
    );
    let Json(routers) = app
        .order(|reply| Request::Failover { router, reply })
        .await?;
    let names: Vec<&str> = routers.iter().map(|name| name.as_str()).collect();
    Ok(Json(Done {
        message: format!("gave away {}", names.join(", ")),
    }))
}

async fn unknown(request: HttpRequest) -> Refusal {
    let path = request.uri().path().chars().take(80).collect::<String>();
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!("there is no {path}; is steerctl newer than steerd?"),
    )
}

async fn wrong_method(request: HttpRequest) -> Refusal {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("{path} does not take the method {method}");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Lets through who has `right`.
fn guarded(route: MethodRouter<Arc<App>>, right: Right, app: &Arc<App>) -> MethodRouter<Arc<App>> {
    let app = Arc::clone(app);
    route.route_layer(middleware::from_fn(
        move |request: HttpRequest, next: Next| {
            let allowed = app.access.check(&app.peer, right);
            async move {
                match allowed {
                    Ok(()) => next.run(request).await,
                    Err(denied) => {
                        Refusal::new(StatusCode::FORBIDDEN, denied.to_string()).into_response()
                    }
                }
            }
        },
    ))
}

/// Ends a request that takes too long: its body comes too slowly, or the driver is busy.
async fn in_time(request: HttpRequest, next: Next) -> Response {
    match timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "steerd did not finish within {}; it may still carry out the order: see \
                 `steerctl status` and steerd's log",
                human_duration(REQUEST_TIMEOUT)
            ),
        )
        .into_response(),
    }
}

impl App {
    /// Asks the driver something it always answers.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Refusal> {
        let stopping = || {
            let message = "steerd is stopping and takes no more requests".to_owned();
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
        };
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Asks the driver something it may refuse.
    async fn order<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Request,
    ) -> Answer<T> {
        match self.ask(request).await? {
            Ok(answer) => Ok(Json(answer)),
            Err(why) => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, why)),
        }
    }
}

/// An answer that is a [`Failure`].
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    error: String,
}

impl Refusal {
    fn new(status: StatusCode, error: String) -> Self {
        Self { status, error }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        (self.status, Json(Failure { error: self.error })).into_response()
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

#[cfg(test)]
mod tests;
