//! Encryption at both ends: towards a host, checked against this machine's roots; towards a command, as a host whose requests
//! carry a secret, under an authority that only the session's programs are told to trust.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::rules::Host;

/// Where Linux distributions keep the roots that programs check others with.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Only this protocol is spoken: requests are read, and HTTP/2 is another language.
const ALPN: &[u8] = b"http/1.1";

/// Whom the proxy trusts.
pub(super) struct Roots {
    /// As the files have them.
    text: String,
    pub(super) client: Arc<ClientConfig>,
}

impl Roots {
    /// This machine's roots, and those of the operator's own file.
    pub(super) fn read(own: Option<&Path>) -> Result<Roots, String> {
        let text = texts(own)?;
        let client = client(&text, RootCertStore::empty())?;
        Ok(Roots { text, client })
    }

    /// What programs inside are to trust instead of what they trust by themselves.
    pub(super) fn bundle(&self, authority: Option<&Authority>) -> String {
        let authority = authority.map_or("", |authority| authority.certificate.as_str());
        format!("{}\n{authority}", self.text.trim_end())
    }
}

/// What the service itself trusts where it is the client: the usual authorities, this machine's roots, and the operator's own file.
pub(crate) fn trusting(own: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    client(&texts(own)?, RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
}

/// This machine's roots and those of the operator's own file, as the files have them.
fn texts(own: Option<&Path>) -> Result<String, String> {
    // A machine without any can still reach what the operator's file vouches for.
    let text = ROOTS.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let Some(own) = own else { return Ok(text) };
    let wrong = |why: String| format!("ca_file {}: {why}", own.display());
    let more = fs::read_to_string(own).map_err(|error| wrong(error.to_string()))?;
    if CertificateDer::pem_slice_iter(more.as_bytes()).filter_map(Result::ok).count() == 0 {
        return Err(wrong("it holds no certificate in PEM form".to_owned()));
    }
    Ok(format!("{}\n{more}", text.trim_end()))
}

/// A client that believes the certificates of a text besides those it is given.
fn client(text: &str, mut store: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(text.as_bytes()).filter_map(Result::ok));
    let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(store)
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(client))
}

/// The name that is looked for in a host's certificate.
pub(crate) fn server_name(host: &Host) -> Result<ServerName<'static>, String> {
    match host {
        Host::Name(name) => {
            ServerName::try_from(name.clone()).map_err(|_| format!("no certificate can be for {name}"))
        }
        Host::Address(address) => Ok(ServerName::IpAddress((*address).into())),
    }
}

/// Who vouches, inside, that the proxy is the host it stands for. Its key lives in the service's memory and ends with it.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM.
    certificate: String,
}

impl Authority {
    pub(super) fn new() -> Result<Authority, String> {
        let made = || -> Result<Authority, rcgen::Error> {
            let key = KeyPair::generate()?;
            let mut params = lasting(CertificateParams::new(Vec::new())?);
            params.distinguished_name.push(DnType::CommonName, "saga sandbox");
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let certificate = pem(params.self_signed(&key)?.der());
            Ok(Authority { issuer: Issuer::new(params, key), certificate })
        };
        made().map_err(|error| format!("making the sandbox's certificate authority: {error}"))
    }

    /// What it takes to be a host.
    pub(super) fn stand_for(&self, host: &Host) -> Result<Arc<ServerConfig>, String> {
        let names = match host {
            Host::Name(name) => vec![name.clone()],
            // npm, when it asks a proxy for an address, looks for this name.
            Host::Address(address) => vec![address.to_string(), "localhost".to_owned()],
        };
        let made = || -> Result<(CertificateDer<'static>, Vec<u8>), rcgen::Error> {
            let key = KeyPair::generate()?;
            let mut params = lasting(CertificateParams::new(names)?);
            // Another name than the authority's: whose issuer is named like itself counts as signed by itself.
            params.distinguished_name.push(DnType::CommonName, "saga sandbox, for a host");
            params.use_authority_key_identifier_extension = true;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
            Ok((certificate, key.serialize_der()))
        };
        let failed = |error: String| format!("making a certificate for {host}: {error}");
        let (certificate, key) = made().map_err(|error| failed(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                let key = PrivatePkcs8KeyDer::from(key).into();
                builder.with_no_client_auth().with_single_cert(vec![certificate], key)
            })
            .map_err(|error| failed(error.to_string()))?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(server))
    }
}

/// Valid at any time the key could live: it ends with the service, and clocks in sandboxes are odd.
fn lasting(mut params: CertificateParams) -> CertificateParams {
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 12, 31);
    params
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
