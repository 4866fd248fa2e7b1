//! What every operation of the OpenAPI document has in common and no handler repeats: the error body, the login, the ids
//! in its path. The operations themselves come from the handlers.

use utoipa::PartialSchema as _;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder, Type,
};

use crate::protocol::BASE_PATH;
use crate::protocol::error::{ErrorBody, ErrorInfo};

const BEARER: &str = "bearer";

/// Fills in what the handlers leave out.
pub fn complete(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("chat")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The REST interface of `chat serve`; docs/PROTOCOL.md has the rules and the WebSocket."))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    components.schemas.insert("ErrorBody".to_owned(), ErrorBody::schema());
    components.schemas.insert("ErrorInfo".to_owned(), ErrorInfo::schema());
    components.schemas.insert("ErrorCode".to_owned(), crate::protocol::error::ErrorCode::schema());
    for (path, item) in &mut document.paths.paths {
        let operations = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                operation.operation_id = Some(operation_id(method, path));
                describe(path, operation);
            }
        }
    }
    document
}

/// Unique, as generators want it: `get_communities_by_id_members`.
fn operation_id(method: &str, path: &str) -> String {
    let path = path.strip_prefix(BASE_PATH).unwrap_or(path);
    let words = path.split('/').filter(|part| !part.is_empty()).map(|part| match part.strip_prefix('{') {
        Some(name) => format!("by_{}", name.trim_end_matches('}')),
        None => part.replace('-', "_"),
    });
    std::iter::once(method.to_owned()).chain(words).collect::<Vec<_>>().join("_")
}

fn describe(path: &str, operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_default();
    for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        if !parameters.iter().any(|known| matches!(known, RefOr::T(known) if known.name == name)) {
            let text = ObjectBuilder::new().schema_type(Type::String).build();
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
            parameters.push(RefOr::T(parameter.schema(Some(text)).build()));
        }
    }
    // `security(())` of a handler says: without a login.
    if operation.security.is_none() {
        operation.security = Some(vec![SecurityRequirement::new(BEARER, [] as [&str; 0])]);
    }
    let error = ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("ErrorBody")))).build();
    let error = ResponseBuilder::new().description("an error").content("application/json", error).build();
    operation.responses.responses.entry("default".to_owned()).or_insert(RefOr::T(error));
}
