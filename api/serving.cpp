#include "api/serving.hpp"

#include <ctime>

#include "actors/listen_check.hpp"
#include "model/metadata.hpp"
#include "model/model.hpp"
#include "model/synthetic.hpp"

namespace troupe::api {
namespace {

tl::unexpected<serving_failure> give_up(error cause, int exit_code) {
  return tl::unexpected(serving_failure{std::move(cause), exit_code});
}

std::shared_ptr<const model::chat_template> chat_template_of(const model::loaded_model& m) {
  if (!m.meta->contains("tokenizer.chat_template")) {
    spdlog::warn("the model has no chat template: only /v1/completions works");
    return nullptr;
  }
  auto source = m.meta->get<std::string>("tokenizer.chat_template");
  if (!source) {
    spdlog::warn("the model's chat template cannot be read: {}; only /v1/completions works",
                 source.error().detail);
    return nullptr;
  }
  auto made = model::chat_template::make(*source);
  if (!made) {
    spdlog::warn("the model's chat template is not supported: {}; only /v1/completions works",
                 made.error().detail);
    return nullptr;
  }
  return *made;
}

http_server_options server_options(const http_settings& http) {
  http_server_options o;
  o.host = http.host;
  o.port = http.port;
  o.threads = http.threads;
  o.max_connections = http.max_connections;
  o.limits.body_bytes = std::uint64_t{http.max_body_mib} << 20;
  return o;
}

}  // namespace

std::string base_name(const std::filesystem::path& path) {
  const auto whole = path.lexically_normal();
  const auto name = whole.has_filename() ? whole.filename() : whole.parent_path().filename();
  // Of a directory what follows a dot is no extension: Qwen2.5-0.5B-Instruct.
  return (name.extension() == ".gguf" ? name.stem() : name).string();
}

int exit_code_of(ec code) {
  switch (code) {
    case ec::corrupt_file:
      return exit_model;
    case ec::device_lost:
      return exit_device;
    default:
      return exit_configuration;
  }
}

serving_result<opened_model> open_model_file(const model_choice& choice,
                                             std::uint32_t max_model_len) {
  opened_model out;
  auto path = find_model(choice);
  if (!path) return give_up(path.error(), exit_model);
  out.path = model::is_synthetic(*path) ? *path : std::filesystem::absolute(*path);
  auto loaded = model::open_model(out.path);
  if (!loaded) return give_up(loaded.error(), exit_model);
  out.loaded = std::move(*loaded);
  const auto context = out.loaded->config.max_position_embeddings;
  if (max_model_len > context)
    return give_up({ec::invalid_argument, "--max-model-len " + std::to_string(max_model_len) +
                                              ": the model's context is " +
                                              std::to_string(context) + " tokens"},
                   exit_configuration);
  out.max_model_len = max_model_len > 0 ? max_model_len : context;
  out.names = choice.served_names.empty() ? std::vector{base_name(out.path)} : choice.served_names;
  out.tool_call_parser = choice.tool_call_parser;
  return out;
}

serving_result<std::shared_ptr<const served_model>> make_served_model(const opened_model& opened) {
  auto tokenizer = model::tokenizer::make(*opened.loaded);
  if (!tokenizer) return give_up(tokenizer.error(), exit_model);
  auto m = std::make_shared<served_model>();
  m->names = opened.names;
  m->tokenizer = std::move(*tokenizer);
  m->infill = model::find_infill_tokens(*m->tokenizer, *opened.loaded->meta);
  m->chat_template = chat_template_of(*opened.loaded);
  if (m->chat_template) m->tools = tool_manner_of(*m->chat_template, opened.tool_call_parser);
  m->max_model_len = opened.max_model_len;
  m->architecture = opened.loaded->config.architecture;
  m->digest = to_hex(opened.loaded->digest);
  m->created = std::time(nullptr);
  measure_tokens(*m);
  return m;
}

serving_result<void> serving::start_cluster(const serve_config& config,
                                            const opened_model& opened) {
  actors::serve_options options;
  options.model = opened.path;
  options.model_name = opened.names.front();
  options.num_prefill = config.prefill;
  options.num_decode = config.decode;
  options.num_kv_store = config.kv_store;
  options.num_draft = config.draft;
  if (config.draft > 0) options.draft_model = std::filesystem::absolute(config.draft_model);
  options.draft_device = config.draft_device;
  options.draft_threads = config.draft_threads;
  options.store = config.node.store;
  options.single_process = config.single_process;
  options.max_queued = config.max_queued;
  options.max_queue_wait = std::chrono::seconds(config.max_queue_wait_s);
  options.runner = config.node.runner;
  options.engine = config.node.engine;
  options.network = config.node.network;
  options.node_arguments = node_flags(config.node, config.log);
  auto cluster = actors::serve_process::start(options, opened.loaded);
  if (!cluster)
    return give_up(cluster.error(), cluster.error().code == ec::unsupported
                                        ? exit_device
                                        : exit_code_of(cluster.error().code));
  cluster_ = std::move(*cluster);
  return {};
}

// Before anything that takes time, so that a port in use is noticed at once. Who asks meanwhile hears that the server
// is starting.
serving_result<void> serving::take_ports(const serve_config& config, const cors& allowed_origins) {
  host_ = config.http.host;
  const auto& net = config.node.network;
  if (auto ok = actors::check_listen(net.host, net.port, "--cluster-host, --cluster-port"); !ok)
    return give_up(ok.error(), exit_configuration);
  metrics_ = std::make_shared<frontend_metrics>(
      prometheus::Labels{{"node", "gateway"}, {"role", "gateway"}});
  door_ = std::make_shared<front_door>(metrics_, allowed_origins);
  auto server = http_server::start(server_options(config.http), door_);
  if (!server) return give_up(server.error(), exit_configuration);
  server_ = std::move(*server);
  return {};
}

void serving::open_door(const serve_config& config, api_keys keys, api_keys admin_keys,
                        cors allowed_origins) {
  const bool loopback = host_.rfind("127.", 0) == 0 || host_ == "localhost" || host_ == "::1";
  if (!keys.required() && !loopback)
    spdlog::warn("everyone who reaches {} can use this server: --api-key-file asks for a key",
                 host_);
  application_options door;
  door.keys = std::move(keys);
  door.admin_keys = std::move(admin_keys);
  door.allowed_origins = std::move(allowed_origins);
  door.web_ui = config.http.web_ui;
  door.own_nodes = cluster_->own_nodes();
  door.version = TROUPE_VERSION;
  door.ping = std::chrono::seconds(config.http.sse_ping_s);
  door.generation_timeout = std::chrono::seconds(config.http.request_timeout_s);
  application_ =
      std::make_shared<application>(std::move(door), cluster_->service(), model_, metrics_);
  door_->open(application_);
}

serving_result<std::unique_ptr<serving>> serving::start(const serve_config& config) {
  auto keys = api_keys::load(config.http.keys, config.http.key_file);
  if (!keys) return give_up(keys.error(), exit_configuration);
  auto admin_keys = api_keys::load({}, config.http.admin_key_file);
  if (!admin_keys) return give_up(admin_keys.error(), exit_configuration);
  auto origins = cors::make(config.http.allowed_origins);
  if (!origins) return give_up(origins.error(), exit_configuration);
  std::unique_ptr<serving> s(new serving);
  if (auto ok = s->take_ports(config, *origins); !ok) return tl::unexpected(ok.error());
  auto opened = open_model_file(config.model, config.node.engine.max_model_len);
  if (!opened) return tl::unexpected(opened.error());
  // First the nodes: they load while the tokenizer is made here.
  if (auto ok = s->start_cluster(config, *opened); !ok) return tl::unexpected(ok.error());
  auto model = make_served_model(*opened);
  if (!model) return tl::unexpected(model.error());
  s->model_ = std::move(*model);
  s->open_door(config, std::move(*keys), std::move(*admin_keys), std::move(*origins));
  return s;
}

// The door first, so that no request is under way when the cluster goes. The application goes before it too: CAF's
// actor system waits for every thread that ever held one of its actors to let go of the logger, the application's
// own thread included.
serving::~serving() {
  server_.reset();
  door_.reset();
  application_.reset();
  cluster_.reset();
}

std::string serving::url() const {
  const bool v6 = host_.find(':') != std::string::npos;
  const std::string host = host_ == "0.0.0.0" ? "127.0.0.1" : v6 ? "[" + host_ + "]" : host_;
  return "http://" + host + ":" + std::to_string(server_->port());
}

std::optional<serving_failure> serving::failure() const {
  auto f = cluster_->failure();
  if (!f) return {};
  return serving_failure{*f, exit_code_of(f->code)};
}

void serving::drain() {
  application_->begin_drain();
  cluster_->drain();
}

std::string serving::under_way() const {
  const auto status = service().status();
  std::string text = fmt::format("{} requests at the door, {} behind it", application_->in_flight(),
                                 status.requests_in_flight);
  for (const auto& n : status.nodes)
    if (n.running + n.waiting > 0)
      text += fmt::format("; {} had {} running and {} waiting", n.name, n.running, n.waiting);
  return text;
}

bool serving::drained() const {
  return application_->in_flight() == 0 && cluster_->drained();
}

}  // namespace troupe::api
