//! TLS on a probe's connection, and what it takes to trust the server.
//!
//! A client configuration is costly (the system's roots are some hundred certificates), so each is
//! made once and kept, until its CA file changes.

use std::{
    collections::HashMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use steerd_core::{config::TlsCheck, event::ProbeFailure};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Shakes hands over `stream` with the server at `address`.
pub(super) async fn handshake(
    check: &TlsCheck,
    address: IpAddr,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, ProbeFailure> {
    let name = match &check.server_name {
        None => ServerName::from(address),
        Some(name) => ServerName::try_from(name.clone())
            .map_err(|error| ProbeFailure::Local(format!("server_name `{name}`: {error}")))?,
    };
    let trust = Trust::of(check);
    // Reading roots is blocking work.
    let config = tokio::task::spawn_blocking(|| client_config(trust)).await;
    let config = config.map_err(|error| ProbeFailure::Local(error.to_string()))??;
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| failure(&error))
}

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Trust {
    Anybody,
    System,
    File(PathBuf),
}

impl Trust {
    fn of(check: &TlsCheck) -> Self {
        match (check.verify, &check.ca_file) {
            (false, _) => Self::Anybody,
            (true, None) => Self::System,
            (true, Some(path)) => Self::File(path.clone()),
        }
    }
}

/// When a CA file was changed last, and how long it was.
type Stamp = Option<(SystemTime, u64)>;

/// What was made so far, each from a file of this stamp.
type Cache = HashMap<Trust, (Stamp, Arc<ClientConfig>)>;

/// The configuration for `trust`, from the cache where its file is unchanged. The cache has an entry
/// for each CA file that a configuration named, so it stays small.
fn client_config(trust: Trust) -> Result<Arc<ClientConfig>, ProbeFailure> {
    static CACHE: OnceLock<Mutex<Cache>> = OnceLock::new();
    let stamp = match &trust {
        Trust::File(path) => stamp(path)?,
        _ => None,
    };
    let mut cache = CACHE
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some((_, config)) = cache.get(&trust).filter(|(cached, _)| *cached == stamp) {
        return Ok(Arc::clone(config));
    }
    let config = Arc::new(build(&trust)?);
    cache.insert(trust, (stamp, Arc::clone(&config)));
    Ok(config)
}

fn stamp(path: &Path) -> Result<Stamp, ProbeFailure> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    Ok(metadata.modified().ok().map(|at| (at, metadata.len())))
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> ProbeFailure {
    ProbeFailure::Local(format!("ca_file {}: {error}", path.display()))
}

fn build(trust: &Trust) -> Result<ClientConfig, ProbeFailure> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ProbeFailure::Local(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    match trust {
        Trust::Anybody => {
            let verifier = Arc::new(TrustAnybody(provider));
            let builder = builder
                .dangerous()
                .with_custom_certificate_verifier(verifier);
            return Ok(builder.with_no_client_auth());
        }
        Trust::System => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(ProbeFailure::Local(
                    "this system has no root certificates; install ca-certificates or set ca_file"
                        .into(),
                ));
            }
        }
        Trust::File(path) => {
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| unreadable(path, &error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unreadable(path, &error))?;
                roots
                    .add(certificate)
                    .map_err(|error| unreadable(path, &error))?;
            }
            if roots.is_empty() {
                return Err(unreadable(path, &"it holds no certificate"));
            }
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Takes any certificate, for `verify = false`: a health check of one's own server, whose certificate
/// is self-signed or made out to another name. Nothing secret is sent over it, and what comes back
/// decides no more than a plain HTTP check does. That the server holds the certificate's key is
/// checked all the same.
#[derive(Debug)]
struct TrustAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn failure(error: &io::Error) -> ProbeFailure {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<Error>());
    match cause {
        None => super::failure(error),
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => ProbeFailure::Tls(
            "the certificate is of an issuer that is not trusted; set ca_file or verify = false"
                .into(),
        ),
        Some(error) => ProbeFailure::Tls(error.to_string()),
    }
}
