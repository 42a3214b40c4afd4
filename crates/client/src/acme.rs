//! Getting a certificate from an authority that speaks ACME (RFC 8555), by the challenge HTTP-01.

use std::pin::Pin;

use api::{Error, Result};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Request;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, HttpClient,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use serde_json::Value;

use crate::Web;
use crate::tls::Identity;

/// What a caller has to do so that the authority finds an answer at `/.well-known/acme-challenge/<token>`.
pub type Done = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Makes an account with the authority whose directory is at `url`, which agrees to its terms; what is needed to use it
/// again, a secret.
pub async fn account(web: Web, url: &str, email: &str) -> Result<Value> {
    let contact = format!("mailto:{email}");
    let new = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
    let made = Account::builder_with_http(Box::new(Http(web))).create(&new, url.to_owned(), None).await;
    let (_, credentials) = made.map_err(|e| failed("making an account", &e))?;
    serde_json::to_value(&credentials).map_err(|e| Error::internal(e.to_string()))
}

/// Gets a certificate for the domain, with a new key. `answer` is told a token and what has to be found there.
pub async fn certificate(
    web: Web,
    account: &Value,
    domain: &str,
    answer: impl Fn(String, String) -> Done + Send + Sync,
) -> Result<Identity> {
    let credentials: AccountCredentials = serde_json::from_value(account.clone())
        .map_err(|_| Error::internal("The account with the ACME authority is unreadable"))?;
    let account = Account::builder_with_http(Box::new(Http(web))).from_credentials(credentials).await;
    let account = account.map_err(|e| failed("using the account", &e))?;
    let names = [Identifier::Dns(domain.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&names)).await.map_err(|e| failed("ordering", &e))?;
    prove(&mut order, &answer).await?;
    let status = order.poll_ready(&RetryPolicy::default()).await.map_err(|e| failed("checking the domain", &e))?;
    if status != OrderStatus::Ready {
        return Err(Error::bad_request(format!(
            "The ACME authority refuses the domain {domain}: {}",
            why(&mut order).await
        )));
    }
    let key = order.finalize().await.map_err(|e| failed("asking for the certificate", &e))?;
    let certificate = order.poll_certificate(&RetryPolicy::default()).await;
    Ok(Identity { certificate: certificate.map_err(|e| failed("getting the certificate", &e))?, key })
}

/// Answers the challenges of all that is to be proved.
async fn prove(order: &mut Order, answer: &(impl Fn(String, String) -> Done + Send + Sync)) -> Result<()> {
    let mut all = order.authorizations();
    while let Some(one) = all.next().await {
        let mut one = one.map_err(|e| failed("asking what to prove", &e))?;
        if one.status == AuthorizationStatus::Valid {
            continue;
        }
        let mut challenge = one
            .challenge(ChallengeType::Http01)
            .ok_or_else(|| Error::bad_request("The ACME authority does not offer the challenge HTTP-01"))?;
        let (token, key) = (challenge.token.clone(), challenge.key_authorization().as_str().to_owned());
        answer(token, key).await?;
        challenge.set_ready().await.map_err(|e| failed("answering the challenge", &e))?;
    }
    Ok(())
}

/// What the authority says of challenges that failed.
async fn why(order: &mut Order) -> String {
    let mut reasons = Vec::new();
    let mut all = order.authorizations();
    while let Some(Ok(mut one)) = all.next().await {
        if let Ok(state) = one.refresh().await {
            reasons.extend(state.challenges.iter().filter_map(|c| c.error.as_ref()?.detail.clone()));
        }
    }
    if reasons.is_empty() { "it does not say why".to_owned() } else { reasons.join("; ") }
}

fn failed(what: &str, e: &instant_acme::Error) -> Error {
    Error::unavailable(format!("The ACME authority, {what}: {e}"))
}

/// HTTP as the rest of the program speaks it.
struct Http(Web);

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = std::result::Result<BytesResponse, instant_acme::Error>> + Send>> {
        let web = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            let answer = web.send(&parts.method, &parts.uri, &parts.headers, bytes).await;
            answer.map(BytesResponse::from).map_err(|e| instant_acme::Error::Other(Box::new(e)))
        })
    }
}
