//! The description of the API (OpenAPI 3.1), made from the table of methods and the types.

use utoipa::openapi::{
    Content, Info, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, Ref, RefOr, Required, Schema,
    path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn},
    request_body::RequestBodyBuilder,
    response::ResponseBuilder,
    schema::Components,
};

use super::{
    method::{Described, Method, Verb},
    types::{CaptureParams, Event, EventParams, Problem, Snapshot},
};

/// The version of the API, which its paths begin with.
const VERSION: &str = "1";

/// Describes these methods.
pub(super) fn of(methods: &[Method]) -> OpenApi {
    let mut components = Components::new();
    let mut paths = PathsBuilder::new();
    describe::<Problem>(&mut components);
    for method in methods {
        let (params, answer) = ((method.params)(), (method.answer)());
        let operation = operation(method, &params, &answer);
        let item = PathItem::new(http_method(method.verb), operation);
        paths = paths.path(method.path, item);
        for Described { name, schema, parts } in [params, answer] {
            components.schemas.insert(name, schema);
            components.schemas.extend(parts);
        }
    }
    paths = paths.path("/v1/events", PathItem::new(HttpMethod::Get, events()));
    paths = paths.path("/v1/capture", PathItem::new(HttpMethod::Get, capture()));
    describe::<Event>(&mut components);
    describe::<Snapshot>(&mut components);
    let mut info = Info::new("ipop-switch", VERSION);
    info.description = Some(
        "The control API of ipop-switch. Each operation is a JSON-RPC 2.0 method too, by its operationId, at POST /v1/rpc.".into(),
    );
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components)).build()
}

/// What changes, as it does.
fn events() -> Operation {
    let events = ResponseBuilder::new()
        .description(
            "Server-sent events: `snapshot` with a Snapshot, then one Event each; the last one is `cut_off` for a listener that is too slow",
        )
        .content("text/event-stream", Content::new(Some(Ref::from_schema_name("Event"))));
    stream::<EventParams>(
        ("events", "What is the case, and then what changes. Not over JSON-RPC"),
        events,
    )
}

/// Frames, as they pass.
fn capture() -> Operation {
    let frames = ResponseBuilder::new()
        .description("pcapng; each frame has a comment that says what became of it")
        .content("application/x-pcapng", Content::new(None::<Ref>));
    stream::<CaptureParams>(("capture", "Frames, as they pass. Not over JSON-RPC"), frames)
}

/// An operation that goes on.
fn stream<P: utoipa::ToSchema>(
    (name, summary): (&str, &str),
    answer: ResponseBuilder,
) -> Operation {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(name))
        .summary(Some(summary))
        .response("200", answer);
    for (name, schema, _) in fields(&Described::of::<P>()) {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .schema(Some(schema));
        operation = operation.parameter(parameter);
    }
    operation.build()
}

fn describe<T: utoipa::ToSchema>(components: &mut Components) {
    components.schemas.insert(T::name().into_owned(), T::schema());
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    components.schemas.extend(parts);
}

fn operation(method: &Method, params: &Described, answer: &Described) -> Operation {
    let done =
        ResponseBuilder::new().description("Done").content("application/json", refers_to(answer));
    let failed = ResponseBuilder::new()
        .description("Not done, and why")
        .content("application/json", Content::new(Some(Ref::from_schema_name("Problem"))));
    let mut operation = OperationBuilder::new()
        .operation_id(Some(method.name))
        .summary(Some(method.summary))
        .response("200", done)
        .response("default", failed);
    for (name, schema, required) in fields(params) {
        let is_in_path = method.path.contains(&format!("{{{name}}}"));
        if !is_in_path && method.verb.has_body() {
            continue;
        }
        let place = if is_in_path { ParameterIn::Path } else { ParameterIn::Query };
        let required = if required || is_in_path { Required::True } else { Required::False };
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .required(required)
            .schema(Some(schema));
        operation = operation.parameter(parameter);
    }
    if method.verb.has_body() {
        let body = RequestBodyBuilder::new().content("application/json", refers_to(params));
        operation = operation.request_body(Some(body.build()));
    }
    operation.build()
}

/// The fields of what a method takes, and whether each must be there.
fn fields(params: &Described) -> Vec<(String, RefOr<Schema>, bool)> {
    let RefOr::T(Schema::Object(object)) = &params.schema else { return Vec::new() };
    let is_required = |name: &String| object.required.contains(name);
    let properties = object.properties.iter();
    properties.map(|(name, schema)| (name.clone(), schema.clone(), is_required(name))).collect()
}

fn refers_to(described: &Described) -> Content {
    Content::new(Some(Ref::from_schema_name(&described.name)))
}

fn http_method(verb: Verb) -> HttpMethod {
    match verb {
        Verb::Get => HttpMethod::Get,
        Verb::Post => HttpMethod::Post,
        Verb::Put => HttpMethod::Put,
        Verb::Delete => HttpMethod::Delete,
    }
}
