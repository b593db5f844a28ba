//! Players: WebSocket clients that send ten messages a second, expect each back within a second,
//! and reconnect when cut or met with silence.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::{
    error::{Context, Result},
    game::Said,
    netns::Namespace,
};

/// The players; they leave on drop.
#[derive(Debug)]
pub struct Players {
    states: Arc<Mutex<Vec<State>>>,
    /// The number of the game: they change servers, as a balancer sees it, between two.
    game: Option<watch::Sender<u32>>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// How the players fare.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// How many there are.
    pub players: usize,
    /// How many are connected.
    pub connected: usize,
    /// How many of those on which server.
    pub per_server: BTreeMap<String, usize>,
    /// How often a connection was lost, over all players.
    pub cuts: u64,
}

impl Players {
    /// `count` players on `client` begin to play at `target`.
    ///
    /// # Errors
    ///
    /// The client's namespace is unusable.
    pub fn start(client: &Namespace, target: SocketAddr, count: usize) -> Result<Self> {
        let states = Arc::new(Mutex::new(vec![State::default(); count]));
        let (game, games) = watch::channel(0);
        let to_record = states.clone();
        let thread = client.thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .context(|| "start a runtime".into())?
                .block_on(async {
                    let mut over = games.clone();
                    for number in 0..count {
                        let states = to_record.clone();
                        let player = Player {
                            number,
                            target,
                            states,
                            dice: Dice::new(number),
                        };
                        tokio::spawn(player.play_on(games.clone()));
                    }
                    // Until the sender is dropped.
                    while over.changed().await.is_ok() {}
                });
            Ok(())
        });
        Ok(Self {
            states,
            game: Some(game),
            thread: Some(thread),
        })
    }

    /// How they fare now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.read(|states| {
            let mut snapshot = Snapshot {
                players: states.len(),
                ..Snapshot::default()
            };
            for state in states {
                snapshot.cuts += state.cuts;
                if let Some(server) = &state.server {
                    snapshot.connected += 1;
                    *snapshot.per_server.entry(server.clone()).or_default() += 1;
                }
            }
            snapshot
        })
    }

    /// How many are connected, and got the echo of a message that they sent after `since`.
    #[must_use]
    pub fn playing_since(&self, since: Instant) -> usize {
        self.read(|states| {
            let playing = |state: &&State| {
                state.server.is_some() && state.echoed.is_some_and(|sent| sent > since)
            };
            states.iter().filter(playing).count()
        })
    }

    /// Whether all play the current game on `server`; a player who is about to leave the one before
    /// does not.
    #[must_use]
    pub fn all_play_on(&self, server: &str) -> bool {
        let current = self.game.as_ref().map(|game| *game.borrow());
        self.read(|states| {
            let mut states = states.iter();
            states
                .all(|state| state.server.as_deref() == Some(server) && Some(state.game) == current)
        })
    }

    /// Ends the games: each player disconnects within half a second and begins the next. That is
    /// no cut.
    pub fn next_game(&self) {
        if let Some(game) = &self.game {
            game.send_modify(|number| *number += 1);
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Vec<State>) -> T) -> T {
        read(&self.states.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Players {
    fn drop(&mut self) {
        drop(self.game.take());
        // Its result matters to nobody any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One player's state.
#[derive(Debug, Clone, Default)]
struct State {
    /// Whose greeting was the last, while connected.
    server: Option<String>,
    /// When the last message that came back was sent.
    echoed: Option<Instant>,
    /// Which game the connection was made for.
    game: u32,
    cuts: u64,
}

struct Player {
    number: usize,
    target: SocketAddr,
    states: Arc<Mutex<Vec<State>>>,
    dice: Dice,
}

/// Why a game ended.
enum End {
    Cut,
    Over,
}

/// How long a connection may take to be made, the greeting included.
const CONNECT: Duration = Duration::from_millis(500);
/// How long a message may take to come back.
const SILENCE: Duration = Duration::from_secs(1);

impl Player {
    async fn play_on(mut self, mut games: watch::Receiver<u32>) {
        loop {
            if let Ok(Ok((server, stream))) = timeout(CONNECT, connect(self.target)).await {
                let game = *games.borrow_and_update();
                self.update(|state| (state.server, state.game) = (Some(server), game));
                let end = self.play(stream, &mut games).await;
                self.update(|state| {
                    state.server = None;
                    state.cuts += u64::from(matches!(end, End::Cut));
                });
                if matches!(end, End::Over) {
                    continue;
                }
            }
            sleep(self.dice.between(50, 100)).await;
        }
    }

    async fn play(&mut self, mut stream: Stream, games: &mut watch::Receiver<u32>) -> End {
        for number in 0_u64.. {
            let message = format!("player {} says {number}", self.number);
            let sent = Instant::now();
            if timeout(SILENCE, stream.send(Message::text(message.clone())))
                .await
                .is_err()
            {
                return End::Cut;
            }
            match timeout(SILENCE, next(&mut stream)).await {
                Ok(Ok(Said {
                    echo: Some(echo), ..
                })) if echo == message => {}
                _ => return End::Cut,
            }
            self.update(|state| state.echoed = Some(sent));
            tokio::select! {
                () = sleep(self.dice.between(80, 120)) => {}
                changed = games.changed() => {
                    // An error is the end of the lab.
                    if changed.is_ok() {
                        sleep(self.dice.between(0, 500)).await;
                    }
                    return End::Over;
                }
                // Nobody says anything unasked: the connection is gone.
                _ = stream.next() => return End::Cut,
            }
        }
        End::Over
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = states.get_mut(self.number) {
            change(state);
        }
    }
}

type Stream = WebSocketStream<TcpStream>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Connects and hears the greeting.
async fn connect(target: SocketAddr) -> std::result::Result<(String, Stream), Failure> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let (mut stream, _) = client_async(format!("ws://{target}/play"), stream).await?;
    let said = next(&mut stream).await?;
    Ok((said.server, stream))
}

async fn next(stream: &mut Stream) -> std::result::Result<Said, Failure> {
    let message = stream
        .next()
        .await
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))??;
    Ok(serde_json::from_str(message.to_text()?)?)
}

/// Jitter: an xorshift generator, which needs no quality, only to differ between players.
struct Dice(u64);

impl Dice {
    fn new(number: usize) -> Self {
        Self((number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn between(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(low_ms + self.0 % (high_ms - low_ms + 1))
    }
}
