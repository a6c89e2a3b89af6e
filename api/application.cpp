#include "api/application.hpp"

#include "api/application_call.hpp"
#include "api/json_input.hpp"
#include "api/migration_hints.hpp"

namespace troupe::api {
namespace {

bool is_json(std::string_view content_type) {
  const auto type = content_type.substr(0, content_type.find(';'));
  static constexpr std::string_view json = "application/json";
  if (type.empty()) return true;
  std::string_view trimmed = type.substr(0, type.find_last_not_of(' ') + 1);
  if (trimmed.size() != json.size()) return false;
  for (std::size_t i = 0; i < json.size(); ++i)
    if ((trimmed[i] | 0x20) != json[i] && trimmed[i] != json[i]) return false;
  return true;
}

}  // namespace

std::string_view path_of(std::string_view target) {
  for (std::string_view scheme : {"http://", "https://"})
    if (target.substr(0, scheme.size()) == scheme) {
      const auto slash = target.find('/', scheme.size());
      target = slash == std::string_view::npos ? "/" : target.substr(slash);
      break;
    }
  return target.substr(0, target.find_first_of("?#"));
}

struct application::route {
  const char* method;
  std::string_view path;
  bool prefix;  // the path continues
  bool open;    // no key needed
  endpoint name;
  void (application::*work)(call&);
  bool admin = false;  // it changes the cluster for everybody
};

const std::vector<application::route>& application::routes() {
  using a = application;
  static const std::vector<route> table{
      {"POST", "/v1/chat/completions", false, false, endpoint::chat_completions,
       &a::chat_completions},
      {"POST", "/v1/completions", false, false, endpoint::completions, &a::completions},
      {"GET", "/v1/models", false, false, endpoint::models, &a::list_models},
      {"GET", "/v1/models/", true, false, endpoint::models, &a::one_model},
      {"POST", "/tokenize", false, false, endpoint::tokenize, &a::tokenize},
      {"POST", "/v1/tokenize", false, false, endpoint::tokenize, &a::tokenize},
      {"POST", "/detokenize", false, false, endpoint::detokenize, &a::detokenize},
      {"POST", "/v1/detokenize", false, false, endpoint::detokenize, &a::detokenize},
      {"GET", "/health", false, true, endpoint::health, &a::health},
      {"GET", "/ready", false, true, endpoint::ready, &a::health},
      {"GET", "/live", false, true, endpoint::live, &a::live},
      {"GET", "/metrics", false, false, endpoint::metrics, &a::metrics_text},
      {"GET", "/version", false, false, endpoint::version, &a::version},
      {"GET", "/v1/cluster", false, false, endpoint::cluster, &a::cluster},
      {"POST", "/v1/cache/clear", false, false, endpoint::cluster, &a::clear_cache, true},
      {"POST", "/v1/cache/pin", false, false, endpoint::cluster, &a::pin_cache, true},
      {"POST", "/v1/cluster/drain", false, false, endpoint::cluster, &a::drain_node, true},
      {"GET", "/", false, false, endpoint::ui, &a::web_page},
  };
  return table;
}

application::application(application_options options, actors::generation_service& service,
                         std::shared_ptr<const served_model> model,
                         std::shared_ptr<frontend_metrics> metrics)
    : options_(std::move(options)),
      limits_([&] {
        auto limits = options_.limits;
        limits.vocab_size = static_cast<std::uint32_t>(model->tokenizer->vocab_size());
        limits.form_checked = [metrics](engine::structured::format_kind form, bool kept,
                                        double seconds) {
          metrics->form_checked(form, kept, seconds);
        };
        return limits;
      }()),
      service_(service),
      model_(std::move(model)),
      metrics_(std::move(metrics)),
      fingerprint_("troupe-" + options_.version + "-" + model_->digest.substr(0, 8)) {
  TROUPE_ASSERT(!model_->names.empty());
}

application::~application() = default;

http_response application::refuse(const api_error& e) {
  metrics_->answered(endpoint::other, e.status, 0);
  metrics_->rejected(e);
  return closing_response(e);
}

void application::handle(http_request request, std::shared_ptr<exchange> to) {
  auto c = std::make_shared<call>();
  c->request = std::move(request);
  c->to = std::move(to);
  c->metrics = metrics_;
  c->allowed_origins = &options_.allowed_origins;
  c->path = path_of(c->request.target);
  c->id = request_id_of(c->request.header("x-request-id"));
  metrics_->http_request_bytes->Increment(static_cast<double>(c->request.body.size()));

  // Browsers ask without the key that the request itself will bring.
  if (auto may = options_.allowed_origins.preflight(c->request)) return c->answer(std::move(*may));

  const std::string_view method =
      c->request.method == "HEAD" ? "GET" : std::string_view(c->request.method);
  const route* found = nullptr;
  std::string allowed;
  for (const auto& r : routes()) {
    const bool matches =
        r.prefix ? c->path.substr(0, r.path.size()) == r.path && c->path.size() > r.path.size()
                 : c->path == r.path;
    if (!matches) continue;
    c->name = r.name;
    allowed = r.method;
    if (method == r.method) found = &r;
  }
  // A browser may add its user's password to what a stranger's page asks.
  if (options_.allowed_origins.refuses(c->request)) return c->fail(origin_not_allowed());
  // Keys come first: who has none learns nothing about which paths exist.
  const auto authorization = c->request.header("authorization");
  const std::string admin = options_.admin_keys.holder(authorization);
  c->tenant = admin.empty() ? options_.keys.holder(authorization) : admin;
  if (!(found && found->open) && options_.keys.required() && c->tenant.empty()) {
    const char* scheme = c->path == "/" ? "Basic realm=\"troupe\"" : "Bearer";
    return c->fail(invalid_api_key(), {{"WWW-Authenticate", scheme}});
  }
  if (allowed.empty()) {
    std::string text = "There is nothing at this URL.";
    if (const auto hint = hint_for_path(c->path); !hint.empty())
      (text += ' ') += hint;
    else if (c->path.size() > 1 && c->path.ends_with('/'))
      text += " Leave out the slash at the end.";
    return c->fail(http_error(404, std::move(text)));
  }
  if (!found) {
    if (allowed == "GET") allowed = "GET, HEAD";
    return c->fail(http_error(405, "This URL does not support the method."), {{"Allow", allowed}});
  }
  if (method == "POST" && !is_json(c->request.header("content-type")))
    return c->fail(http_error(
        415,
        "The Content-Type must be application/json (curl: -H 'Content-Type: application/json')."));
  if (found->admin && options_.admin_keys.required() && admin.empty())
    return c->fail(not_an_admin());
  (this->*found->work)(*c);
}

}  // namespace troupe::api
