#include "actors/cluster.hpp"

#include <algorithm>
#include <caf/scoped_actor.hpp>
#include <random>

#include "actors/children.hpp"
#include "actors/connect.hpp"
#include "actors/gateway_service.hpp"
#include "actors/listen_check.hpp"
#include "actors/node_runtime.hpp"
#include "actors/placement.hpp"
#include "actors/server_actors.hpp"
#include "actors/system.hpp"
#include "actors/wire.hpp"
#include "base/log.hpp"
#include "model/tokenizer.hpp"
#include "model/vocabulary.hpp"

namespace troupe::actors {
namespace {

// -- a node ---------------------------------------------------------------------------------------------------------------

class single_node : public node_process {
 public:
  explicit single_node(const network_settings& network) : config_(network), system_(config_) {}
  result<void> run(const node_options& options) {
    TROUPE_TRY(auto model, model::open_model(options.model));
    TROUPE_TRY(node_, node_runtime::start(
                          system_, product_platform(system_), options, std::move(model),
                          join_target{directory_actor{}, options.join_host, options.join_port},
                          std::make_shared<local_nodes>()));
    return {};
  }
  std::string name() const override { return node_->info().name; }
  std::uint16_t port() const override { return node_->info().port; }
  bool joined() const override { return node_->joined(); }
  void drain() override { node_->drain(); }
  bool drained() const override { return node_->drained(); }
  bool restart() const override { return node_->restart(); }
  std::optional<error> failure() const override { return node_->failure(); }

 private:
  system_config config_;
  caf::actor_system system_;
  std::unique_ptr<node_runtime> node_;
};

// -- a server -------------------------------------------------------------------------------------------------------------

class server : public serve_process {
 public:
  explicit server(const network_settings& network) : config_(network), system_(config_) {}
  ~server() override;
  result<void> run(const serve_options& options, std::shared_ptr<const model::loaded_model> model);
  generation_service& service() override { return *service_; }
  std::uint16_t cluster_port() const override { return cluster_port_; }
  std::vector<std::string> own_nodes() const override;
  void drain() override;
  bool drained() const override;
  std::optional<error> failure() const override;

 private:
  void start_gateway(const serve_options& options,
                     std::shared_ptr<const model::loaded_model> model);
  result<void> publish(const serve_options& options);
  std::vector<child_command> commands(const serve_options& options,
                                      std::span<const placement> placed) const;

  system_config config_;
  caf::actor_system system_;
  std::shared_ptr<local_nodes> neighbours_ = std::make_shared<local_nodes>();
  directory_actor directory_;
  router_actor router_;
  std::shared_ptr<gateway_context> context_;
  gateway_actor gateway_;
  std::uint16_t cluster_port_ = 0;
  std::unique_ptr<generation_service> service_;
  std::vector<std::unique_ptr<node_runtime>> nodes_;
  std::unique_ptr<children> children_;
};

void server::start_gateway(const serve_options& options,
                           std::shared_ptr<const model::loaded_model> model) {
  membership_options m;
  m.expected_model = to_hex(model->digest);
  m.expected_model_text = "model " + options.model_name + " " + m.expected_model.substr(0, 12);
  m.expected_vocabulary = [model] {
    const auto tokenizer = model::tokenizer::make(*model);
    return tokenizer ? to_hex(model::vocabulary_digest(**tokenizer)) : std::string();
  };
  gateway_options g;
  g.admission = {options.max_queued, options.max_queue_wait};
  auto actors = spawn_server(system_, m, g, neighbours_, product_connector(system_));
  directory_ = actors.directory;
  router_ = actors.router;
  gateway_ = actors.gateway;
  context_ = actors.context;
  service_ = make_gateway_service(system_, gateway_);
}

result<void> server::publish(const serve_options& options) {
  const auto& net = options.network;
  auto cluster = actors::publish(system_, directory_, net.host, net.port);
  if (!cluster)
    return fail(ec::address_in_use, "cannot listen on " + net.host + ":" +
                                        std::to_string(net.port) +
                                        " for the cluster: choose another --cluster-port");
  cluster_port_ = *cluster;
  auto door = actors::publish(system_, gateway_, net.host, 0);
  if (!door) return fail(ec::address_in_use, "cannot listen on " + net.host + " for programs");
  auto& info = context_->info;
  info.name = "gateway-" + std::to_string(*door);
  info.start = (std::uint64_t{std::random_device{}()} << 32) | *door;
  info.kind = role::gateway;
  info.host = net.host;
  info.port = *door;  // programs learn it from the directory
  info.model_name = options.model_name;
  context_->published = true;
  return {};
}

std::vector<child_command> server::commands(const serve_options& options,
                                            std::span<const placement> placed) const {
  std::vector<child_command> all;
  auto add = [&](const char* role, std::uint32_t count, std::span<const placement> places) {
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::string name = std::string(role) + "-" + std::to_string(i);
      child_command c{name,
                      options.binary.string(),
                      {"node", options.model.string(), "--role", role, "--name", name, "--join",
                       options.network.host + ":" + std::to_string(cluster_port_)}};
      c.arguments.insert(c.arguments.end(), options.node_arguments.begin(),
                         options.node_arguments.end());
      if (!places.empty()) {
        c.arguments.insert(c.arguments.end(), {"--device", places[i].device});
        if (places[i].gpu_memory_fraction > 0)
          c.arguments.insert(c.arguments.end(), {"--gpu-memory-fraction",
                                                 std::to_string(places[i].gpu_memory_fraction)});
      }
      all.push_back(std::move(c));
    }
  };
  add("decode", options.num_decode, placed.subspan(options.num_prefill));
  add("prefill", options.num_prefill, placed.first(options.num_prefill));
  add("kv-store", options.num_kv_store, {});
  const auto drafts_from = static_cast<std::ptrdiff_t>(all.size());
  add("draft", options.num_draft, {});
  for (auto c = all.begin() + drafts_from; c != all.end(); ++c) {
    c->arguments[1] = options.draft_model.string();
    if (!options.draft_device.empty())
      c->arguments.insert(c->arguments.end(), {"--device", options.draft_device});
    if (options.draft_threads == 0) continue;
    const auto threads = std::find(c->arguments.begin(), c->arguments.end(), "--threads");
    if (threads != c->arguments.end()) c->arguments.erase(threads, threads + 2);
    c->arguments.insert(c->arguments.end(), {"--threads", std::to_string(options.draft_threads)});
  }
  return all;
}

result<void> server::run(const serve_options& options,
                         std::shared_ptr<const model::loaded_model> model) {
  TROUPE_TRY(const auto placed,
             place_nodes(options.runner, options.num_prefill + options.num_decode));
  start_gateway(options, model);
  TROUPE_CHECK(publish(options));
  if (!options.single_process) {
    // A node joins when its model is loaded; who was lost stays in the table for a while.
    const auto joined = [this](const std::string& name) {
      for (const auto& n : service_->status().nodes)
        if (n.name == name) return n.incarnation;
      return std::uint64_t{0};
    };
    const auto role_of = [](const std::string& name) { return name.substr(0, name.rfind('-')); };
    child_events events{
        [=, m = context_->metrics](const auto& n) { m->worker_restarted(role_of(n)).Increment(); },
        [=, m = context_->metrics](const auto& n) { m->workers_given_up(role_of(n)).Increment(); }};
    children_ = std::make_unique<children>(commands(options, placed), joined, restart_policy{},
                                           std::move(events));
    return {};
  }
  std::shared_ptr<const model::loaded_model> draft_model;
  if (options.num_draft > 0) {
    TROUPE_TRY(draft_model, model::open_model(options.draft_model));
  }
  std::size_t next_place = 0;
  for (const auto& [role, count] :
       {std::pair("kv-store", options.num_kv_store), std::pair("prefill", options.num_prefill),
        std::pair("decode", options.num_decode), std::pair("draft", options.num_draft)}) {
    const bool drafts = role == std::string_view("draft");
    for (std::uint32_t i = 0; i < count; ++i) {
      node_options n;
      n.name = std::string(role) + "-" + std::to_string(i);
      n.role = role;
      n.model_name = drafts ? options.draft_model.stem().string() : options.model_name;
      n.runner = options.runner;
      if (drafts) {
        if (!options.draft_device.empty()) n.runner.device = options.draft_device;
        if (options.draft_threads > 0) n.runner.num_threads = options.draft_threads;
      } else if (role != std::string_view("kv-store")) {
        n.runner.device = placed[next_place].device;
        n.runner.gpu_memory_fraction = placed[next_place++].gpu_memory_fraction;
      }
      n.engine = options.engine;
      n.store = options.store;
      n.network = options.network;
      n.network.port = 0;
      TROUPE_TRY(auto node, node_runtime::start(system_, product_platform(system_), n,
                                                drafts ? draft_model : model,
                                                join_target{directory_, {}, 0}, neighbours_));
      nodes_.push_back(std::move(node));
    }
  }
  return {};
}

std::vector<std::string> server::own_nodes() const {
  std::vector<std::string> names;
  for (const auto& n : nodes_) names.push_back(n->info().name);
  return names;
}

void server::drain() {
  caf::anon_send(gateway_, drain_request{});
}

bool server::drained() const {
  return service_->status().requests_in_flight == 0 && context_->in_flight == 0;
}

std::optional<error> server::failure() const {
  for (const auto& n : nodes_)
    if (auto f = n->failure()) return f;
  return children_ ? children_->failure() : std::nullopt;
}

server::~server() {
  children_.reset();  // it asks the service
  service_.reset();
  caf::scoped_actor self{system_};
  auto end = [&](const auto& actor) {
    auto handle = caf::actor_cast<caf::actor>(actor);
    if (!handle) return;
    self->send_exit(handle, caf::exit_reason::user_shutdown);
    self->wait_for(handle);
  };
  end(gateway_);
  while (!nodes_.empty())
    nodes_.pop_back();  // decode before prefill, and all before their directory
  end(router_);
  end(directory_);
}

}  // namespace

result<void> check_role(const std::string& role) {
  TROUPE_TRY([[maybe_unused]] const auto known, parse_role(role));
  return {};
}

result<std::unique_ptr<node_process>> node_process::start(const node_options& options) {
  TROUPE_CHECK(check(options.network));
  // Its actor is published when the model is loaded; that it cannot be is told now.
  TROUPE_CHECK(
      check_listen(options.network.host, options.network.port, "--cluster-host, --cluster-port"));
  auto node = std::make_unique<single_node>(options.network);
  TROUPE_CHECK(node->run(options));
  return node;
}

result<std::unique_ptr<serve_process>> serve_process::start(
    const serve_options& options, std::shared_ptr<const model::loaded_model> model) {
  TROUPE_CHECK(check(options.network));
  if (options.num_decode == 0)
    return fail(ec::invalid_argument, "--decode 0: at least one decode node is needed");
  auto s = std::make_unique<server>(options.network);
  TROUPE_CHECK(s->run(options, std::move(model)));
  return s;
}

}  // namespace troupe::actors
