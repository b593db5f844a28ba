//! What is asked for comes from the daemon, or, of the maps, from their pins where the daemon is
//! down or hangs. Both give the same types, so both look the same.

use std::path::Path;

use steerd_core::api::{Flows, FlowsQuery, MapDump, Maps, Status};

use crate::{
    client::{Client, ClientError, Target},
    error::Error,
    pins::{PinError, Pins},
};

/// Where answers come from.
#[derive(Debug)]
pub(crate) struct Source {
    client: Client,
    pins: Pins,
    /// Why the daemon is asked no more.
    down: Option<ClientError>,
}

impl Source {
    /// The daemon on `socket`, or the pins in its `bpf_dir`.
    pub(crate) fn new(socket: &Path, bpf_dir: &Path) -> Self {
        Self {
            client: Client::new(socket),
            pins: Pins::new(bpf_dir),
            down: None,
        }
    }

    /// The daemon.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Why the answers came from the pins, if they did; a line for the user.
    pub(crate) fn note(&self) -> Option<String> {
        let down = self.down.as_ref()?;
        Some(format!(
            "{down}\nread from the pins in {} instead",
            self.pins.directory().display()
        ))
    }

    /// The whole of the node. Only the daemon knows it.
    pub(crate) async fn status(&self) -> Result<Status, Error> {
        Ok(self.client.get(&Target::new(&["v1", "status"])).await?)
    }

    /// What maps there are.
    pub(crate) async fn maps(&mut self) -> Result<Maps, Error> {
        let answer = self.ask(&Target::new(&["v1", "maps"])).await?;
        self.or_pins(answer, Pins::maps)
    }

    /// A part of a map.
    pub(crate) async fn dump(&mut self, name: &str, from: u64) -> Result<MapDump, Error> {
        let target = Target::new(&["v1", "maps", name]).with("from", Some(from));
        let answer = self.ask(&target).await?;
        self.or_pins(answer, |pins| pins.dump(name, from))
    }

    /// Flows of the table.
    pub(crate) async fn flows(&mut self, query: &FlowsQuery) -> Result<Flows, Error> {
        let target = Target::new(&["v1", "flows"])
            .with("service", query.service.as_ref())
            .with("backend", query.backend.as_ref())
            .with("limit", query.limit);
        let answer = self.ask(&target).await?;
        self.or_pins(answer, |pins| pins.flows(query))
    }

    /// The daemon's answer; none if it is down.
    async fn ask<T: serde::de::DeserializeOwned>(
        &mut self,
        target: &Target,
    ) -> Result<Option<T>, Error> {
        if self.down.is_some() {
            return Ok(None);
        }
        match self.client.get(target).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.is_down() => {
                self.down = Some(error);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn or_pins<T>(
        &self,
        answer: Option<T>,
        read: impl FnOnce(&Pins) -> Result<T, PinError>,
    ) -> Result<T, Error> {
        if let Some(answer) = answer {
            return Ok(answer);
        }
        read(&self.pins).map_err(|pins| {
            let down = self
                .down
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            Error::Pins { down, pins }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_daemon_and_pins_both_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut source = Source::new(&directory.path().join("sock"), directory.path());
        let error = source.maps().await.unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let told = error.to_string();
        assert!(
            told.contains("steerd does not run") && told.contains("no maps in"),
            "{told}"
        );
        assert!(source.note().unwrap().contains("read from the pins in"));
        assert_eq!(source.status().await.unwrap_err().exit_code(), 3);
    }

    #[tokio::test]
    async fn a_map_that_is_not_there_is_no_trouble_with_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let mut source = Source::new(&directory.path().join("sock"), directory.path());
        let error = source.dump("NOTHING", 0).await.unwrap_err();
        assert_eq!(error.exit_code(), 1);
    }
}
