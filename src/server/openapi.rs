//! What every operation of the OpenAPI document has in common and no handler repeats: the error body, the login, the ids
//! in its path. The operations themselves come from the handlers.

use utoipa::PartialSchema as _;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder, Type,
};

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
        let operations =
            [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete, &mut item.head, &mut item.options];
        for operation in operations.into_iter().flatten() {
            describe(path, operation);
        }
    }
    document
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
