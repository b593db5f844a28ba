//! Who this node is to others, and whom it believes.
//!
//! Both sides of a connection show a certificate of one private authority; the node's name stands in
//! it, as a DNS name or as the URI of [`name_uri`]. What may be spoken is TLS 1.3 alone. Sessions are
//! not resumed: each connection proves again who is there.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};
use steerd_core::{
    channel::name_uri,
    config::{Channel, Name},
};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

/// So long before a certificate expires it is warned of.
const WARN_BEFORE_S: i64 = 30 * 24 * 3600;

/// Why this node cannot show who it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("cannot read `{key}` {}: {source}; `steerctl pki issue` makes one", path.display())]
    Read {
        key: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("`{key}` {}: {reason}; `steerctl pki issue` makes one that fits", path.display())]
    Unusable {
        key: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error(
        "`cert_file` {} is for {found}, and this node is {node}: issue one by `steerctl pki issue \
         {node}`, or correct `name` in [node]",
        path.display()
    )]
    OtherName {
        path: PathBuf,
        node: Name,
        found: String,
    },
    #[error("`cert_file` {} does not fit `key_file` or `ca_file`: {source}", path.display())]
    Mismatch { path: PathBuf, source: Error },
}

/// What of a certificate is of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its DNS names and URIs.
    pub(super) names: Vec<String>,
    /// Seconds since the Unix epoch.
    pub(super) expires: i64,
}

impl Facts {
    /// Those of `certificate`. Only for one that was verified, or is our own.
    pub(super) fn of(certificate: &[u8]) -> Result<Self, String> {
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate)
            .map_err(|error| error.to_string())?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| error.to_string())?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(text) | GeneralName::URI(text) => Some((*text).to_owned()),
            _ => None,
        });
        Ok(Self {
            names: names.collect(),
            expires: parsed.validity().not_after.timestamp(),
        })
    }

    /// Whether it is the certificate of the node `name`.
    pub(super) fn is_of(&self, name: &Name) -> bool {
        let uri = name_uri(name);
        self.names
            .iter()
            .any(|found| found.eq_ignore_ascii_case(name.as_str()) || *found == uri)
    }
}

/// Who this node is.
pub(crate) struct Identity {
    pub(super) node: Name,
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    /// When the own certificate expires.
    pub(super) expires: i64,
    /// When the first of the authority's expires.
    ca_expires: i64,
    key_is_open: Option<PathBuf>,
    /// The files as they were read: those that are the same make no new identity.
    files: [Vec<u8>; 3],
}

impl Identity {
    /// Reads the files of `channel`.
    pub(crate) fn load(channel: &Channel, node: &Name) -> Result<Self, IdentityError> {
        let ca = read("ca_file", &channel.ca_file)?;
        let certificate = read("cert_file", &channel.cert_file)?;
        let key = read("key_file", &channel.key_file)?;

        let authorities = certificates("ca_file", &channel.ca_file, &ca)?;
        let mut roots = RootCertStore::empty();
        let mut ca_expires = i64::MAX;
        for authority in authorities {
            let facts = facts("ca_file", &channel.ca_file, &authority)?;
            ca_expires = ca_expires.min(facts.expires);
            roots
                .add(authority)
                .map_err(|error| unusable("ca_file", &channel.ca_file, &error))?;
        }
        let chain = certificates("cert_file", &channel.cert_file, &certificate)?;
        let Some(first) = chain.first() else {
            return Err(unusable("cert_file", &channel.cert_file, &"empty"));
        };
        let own = facts("cert_file", &channel.cert_file, first)?;
        if !own.is_of(node) {
            let found = match own.names.is_empty() {
                true => "no name at all".to_owned(),
                false => own.names.join(", "),
            };
            return Err(IdentityError::OtherName {
                path: channel.cert_file.clone(),
                node: node.clone(),
                found,
            });
        }
        let secret = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|error| unusable("key_file", &channel.key_file, &error))?;

        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let mismatch = |source| IdentityError::Mismatch {
            path: channel.cert_file.clone(),
            source,
        };
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| unusable("ca_file", &channel.ca_file, &error))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(mismatch)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), secret.clone_key())
            .map_err(mismatch)?;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(mismatch)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OfOurAuthority { roots, provider }))
            .with_client_auth_cert(chain, secret)
            .map_err(mismatch)?;
        client.resumption = Resumption::disabled();
        // The name that is checked is the node's; it need not be one that DNS knows.
        client.enable_sni = false;
        Ok(Self {
            node: node.clone(),
            server: Arc::new(server),
            client: Arc::new(client),
            expires: own.expires,
            ca_expires,
            key_is_open: is_open(&channel.key_file).then(|| channel.key_file.clone()),
            files: [ca, certificate, key],
        })
    }

    /// Whether it is made of the same files.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.node == other.node && self.files == other.files
    }

    /// What is wrong with it, each with what to do.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let node = &self.node;
        let issue =
            format!("make a new one by `steerctl pki issue {node}`, then `steerctl reload`");
        warnings.extend(
            expiry(self.expires)
                .map(|when| format!("this node's certificate for the channel {when}: {issue}")),
        );
        warnings.extend(expiry(self.ca_expires).map(|when| {
            format!(
                "the authority of the channel {when}: make a new one by `steerctl pki init`, add it to \
                 `ca_file` on all nodes, and issue new certificates"
            )
        }));
        warnings.extend(self.key_is_open.as_ref().map(|path| {
            format!(
                "others than its owner may read {}: `chmod 600 {0}`",
                path.display()
            )
        }));
        warnings
    }
}

/// When a certificate expires or has expired, if that is to be warned of.
pub(super) fn expiry(at_unix_s: i64) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
    match at_unix_s.saturating_sub(now) {
        ..=0 => Some("has expired".to_owned()),
        left if left < WARN_BEFORE_S => Some(format!("expires in {} days", left / 86_400)),
        _ => None,
    }
}

/// Believes whoever has a certificate of our authority; whose it is, is looked at afterwards.
#[derive(Debug)]
struct OfOurAuthority {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfOurAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::Read {
        key,
        path: path.to_owned(),
        source,
    })
}

fn certificates(
    key: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| unusable(key, path, &error))?;
    if all.is_empty() {
        return Err(unusable(key, path, &"it holds no certificate"));
    }
    Ok(all)
}

fn facts(key: &'static str, path: &Path, certificate: &[u8]) -> Result<Facts, IdentityError> {
    Facts::of(certificate).map_err(|reason| unusable(key, path, &reason))
}

fn unusable(key: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::Unusable {
        key,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}
