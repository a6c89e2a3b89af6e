#include "actors/metrics.hpp"

#include <dirent.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <utility>

#include "actors/tls_door.hpp"
#include "base/version.hpp"

namespace troupe::actors {
namespace {

const prometheus::Histogram::BucketBoundaries step_buckets = {
    .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10};
const prometheus::Histogram::BucketBoundaries transfer_buckets = {
    .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10};
const prometheus::Histogram::BucketBoundaries row_buckets = {1,   2,   4,   8,    16,   32,   64,
                                                             128, 256, 512, 1024, 2048, 4096, 8192};
const prometheus::Histogram::BucketBoundaries error_buckets = {.001, .0025, .005, .01, .025, .05,
                                                               .1,   .25,   .5,   1,   2.5,  5};

const transport::path all_paths[] = {transport::path::local,      transport::path::shm,
                                     transport::path::tcp,        transport::path::rdma,
                                     transport::path::cuda_ipc,   transport::path::sim,
                                     transport::path::staged_shm, transport::path::staged_tcp};
// Those that may be a worse choice than another.
const transport::path slow_paths[] = {transport::path::tcp, transport::path::staged_shm,
                                      transport::path::staged_tcp};
const transport::refusal all_refusals[] = {
    transport::refusal::malformed, transport::refusal::wrong_key, transport::refusal::overload};
const ec pull_errors[] = {ec::deadline_exceeded, ec::peer_lost,      ec::canceled,
                          ec::io_error,          ec::fence_mismatch, ec::not_found,
                          ec::invalid_argument,  ec::queue_full,     ec::unsupported,
                          ec::internal};

const ec admission_errors[] = {ec::overloaded, ec::queue_full, ec::draining, ec::poison,
                               ec::invalid_argument};

std::uint64_t resident_memory() {
  unsigned long long total = 0, resident = 0;
  if (FILE* f = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(f, "%llu %llu", &total, &resident) != 2) resident = 0;
    std::fclose(f);
  }
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

std::uint64_t open_descriptors() {
  std::uint64_t n = 0;
  if (DIR* d = opendir("/proc/self/fd")) {
    while (readdir(d) != nullptr) ++n;
    closedir(d);
  }
  return n > 3 ? n - 3 : 0;  // ".", ".." and the directory itself
}

}  // namespace

// -- process -------------------------------------------------------------------------------------------------------------

process_metrics::process_metrics(const prometheus::Labels& constant) : constant_(constant) {
  gauge("troupe_build_info", "Always 1; the version is a label", {{"version", version}}).Set(1);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  gauge("troupe_process_start_time_seconds", "Start of this process, Unix time")
      .Set(std::chrono::duration<double>(now).count());
  resident_bytes_ =
      &gauge("troupe_process_resident_memory_bytes", "Resident memory of this process");
  open_fds_ = &gauge("troupe_process_open_fds", "Open file descriptors of this process");
  for (auto why : all_tls_refusals)
    connections_refused_[why] = {
        &counter(
            "troupe_actor_connections_refused_total",
            "Connections to this process's ports of actors that did not prove the secret, by why",
            {{"reason", std::string(to_string(why))}}),
        0};
}

prometheus::Counter& process_metrics::counter(const std::string& name, const std::string& help,
                                              const prometheus::Labels& labels) {
  auto& family = counters_[name];
  if (family == nullptr)
    family =
        &prometheus::BuildCounter().Name(name).Help(help).Labels(constant_).Register(*registry);
  return family->Add(labels);
}

prometheus::Gauge& process_metrics::gauge(const std::string& name, const std::string& help,
                                          const prometheus::Labels& labels) {
  auto& family = gauges_[name];
  if (family == nullptr)
    family = &prometheus::BuildGauge().Name(name).Help(help).Labels(constant_).Register(*registry);
  return family->Add(labels);
}

void process_metrics::forget(const std::string& name, prometheus::Gauge& gauge) {
  gauges_.at(name)->Remove(&gauge);
}

prometheus::Histogram& process_metrics::histogram(
    const std::string& name, const std::string& help,
    const prometheus::Histogram::BucketBoundaries& buckets, const prometheus::Labels& labels) {
  auto& family = histograms_[name];
  if (family == nullptr)
    family =
        &prometheus::BuildHistogram().Name(name).Help(help).Labels(constant_).Register(*registry);
  return family->Add(labels, buckets);
}

void process_metrics::refresh() {
  resident_bytes_->Set(static_cast<double>(resident_memory()));
  open_fds_->Set(static_cast<double>(open_descriptors()));
  std::lock_guard lock(refused_mutex_);
  for (auto& [why, counted] : connections_refused_) {
    const auto now = connections_refused(why);
    advance(*counted.first, std::exchange(counted.second, now), now);
  }
}

std::string process_metrics::text() {
  refresh();
  return prometheus::TextSerializer().Serialize(registry->Collect());
}

// -- node ----------------------------------------------------------------------------------------------------------------

fabric_metrics::fabric_metrics(const prometheus::Labels& constant) : process_metrics(constant) {
  for (auto why : all_refusals)
    refused_[why] = &counter("troupe_transport_hellos_refused_total",
                             "Asked to read KV blocks and was not answered, by why",
                             {{"reason", std::string(transport::to_string(why))}});
  for (auto via : slow_paths)
    slow_peers_[via] =
        &gauge("troupe_transport_slow_peers", "Peers whose KV blocks come slower than they could",
               {{"path", std::string(transport::to_string(via))}});
}

void fabric_metrics::update_fabric(const transport::fabric_stats& now) {
  std::lock_guard lock(mutex_);
  for (const auto& [why, count] : now.hellos_refused)
    advance(*refused_.at(why), last_.hellos_refused[why], count);
  for (const auto& [via, peers] : slow_peers_) {
    const auto slow = now.slow_peers.find(via);
    peers->Set(slow == now.slow_peers.end() ? 0 : static_cast<double>(slow->second));
  }
  last_ = now;
}

device_metrics::device_metrics(const prometheus::Labels& constant)
    : fabric_metrics(constant),
      model_load_seconds(
          gauge("troupe_model_load_seconds", "From start until the weights were ready")),
      weight_bytes(gauge("troupe_device_memory_bytes", "Memory of the device by use",
                         {{"kind", "weights"}})),
      kv_bytes(
          gauge("troupe_device_memory_bytes", "Memory of the device by use", {{"kind", "kv"}})) {}

node_metrics::node_metrics(const std::string& node, const std::string& role)
    : device_metrics({{"node", node}, {"role", role}}),
      store_connections(
          gauge("troupe_store_connections", "KV stores that this node is connected to")),
      store_lookup_seconds(histogram("troupe_store_lookup_duration_seconds",
                                     "From asking a KV store until its first answer",
                                     transfer_buckets)),
      batch_rows_(histogram("troupe_step_rows", "Rows of a forward pass", row_buckets)),
      prefill_tokens_(
          counter("troupe_engine_prompt_tokens_total", "Prompt tokens computed by this node")),
      decode_tokens_(
          counter("troupe_engine_generation_tokens_total", "Tokens generated by this node")),
      preemptions_(
          counter("troupe_preemptions_total", "Sequences set back because blocks ran out")),
      evictions_(
          counter("troupe_kv_block_evictions_total", "Cached blocks given up for new content")),
      prefix_queries_(counter("troupe_prefix_cache_queries_total",
                              "Prompt tokens looked up in the local prefix cache")),
      prefix_hits_(counter("troupe_prefix_cache_hits_total",
                           "Prompt tokens found in the local prefix cache")),
      leases_expired_(
          counter("troupe_kv_leases_expired_total", "Leases that ended without a release")),
      checksum_failures_(
          counter("troupe_kv_checksum_failures_total", "Pulled blocks whose fence did not match")),
      draft_length_(gauge("troupe_spec_draft_length",
                          "Guesses of a sequence in a pass that carried any, mean of late")),
      draft_wanted_(gauge("troupe_spec_draft_wanted",
                          "1 while a draft model is asked for guesses: decoding is faster with it, "
                          "or that is being tried")),
      leases_(gauge("troupe_kv_leases", "Requests whose blocks are held for a reader")),
      store_tokens_(counter("troupe_store_fetched_tokens_total",
                            "Prompt tokens whose KV came from a KV store")),
      store_saved_(counter("troupe_store_saved_seconds_total",
                           "Predicted time to compute what was fetched, less the time it took")),
      store_lost_(counter("troupe_store_lost_seconds_total",
                          "Time that lookups and fetches took beyond what computing would have")),
      store_fetch_seconds_(histogram("troupe_store_fetch_duration_seconds",
                                     "From asking a KV store until the last block was here",
                                     transfer_buckets)) {
  for (const char* outcome :
       {"fetched", "miss", "no_store", "computing_is_faster", "too_slow", "silent", "stalled",
        "store_lost", "fence_mismatch", "request_gone", "engine_busy"})
    store_fetches_[outcome] =
        &counter("troupe_store_lookups_total", "Prompts by what came of asking a KV store",
                 {{"outcome", outcome}});
  for (const char* phase : {"prefill", "decode", "mixed"})
    step_seconds_[phase] =
        &histogram("troupe_step_duration_seconds", "Time of a forward pass with its sampling",
                   step_buckets, {{"phase", phase}});
  for (const char* state : {"free", "cached", "writing", "sealed", "pulling", "quarantined"})
    blocks_[state] =
        &gauge("troupe_kv_blocks", "KV blocks by state; the sum is the pool", {{"state", state}});
  for (const char* state : {"running", "waiting", "waiting_remote", "held"})
    requests_[state] = &gauge("troupe_engine_requests", "Requests of this node's engine by state",
                              {{"state", state}});
  for (const char* source : {"text", "history", "draft"}) {
    drafted_[source] =
        &counter("troupe_spec_drafted_tokens_total",
                 "Guessed tokens that passes checked, by who guessed", {{"source", source}});
    accepted_[source] = &counter("troupe_spec_accepted_tokens_total",
                                 "Of them, those that were right", {{"source", source}});
  }
  for (const char* outcome : {"won", "lost"})
    branches_[outcome] =
        &counter("troupe_spec_branches_total",
                 "Second guesses that passes checked beside first ones", {{"outcome", outcome}});
  for (const char* outcome : {"in_time", "late", "malformed"})
    guesses_[outcome] = &counter("troupe_spec_draft_guesses_total",
                                 "Runs of tokens that draft nodes sent, by what came of them",
                                 {{"outcome", outcome}});
  for (const char* choice : {"drafted", "declined", "unguessed"})
    speculation_[choice] =
        &counter("troupe_spec_decodes_total",
                 "Decodes of a sequence in a pass, by what was guessed", {{"choice", choice}});
  for (auto p : all_paths) {
    const prometheus::Labels labels{{"path", std::string(transport::to_string(p))}};
    pull_seconds_[p] = &histogram("troupe_kv_transfer_duration_seconds",
                                  "Time of a pull of KV blocks", transfer_buckets, labels);
    pull_bytes_[p] =
        &counter("troupe_kv_transfer_bytes_total", "Bytes of KV blocks pulled", labels);
  }
  for (auto code : pull_errors)
    pull_failures_[code] = &counter("troupe_kv_transfer_failures_total", "Pulls that failed",
                                    {{"reason", std::string(to_string(code))}});
}

void node_metrics::on_step(const engine::step_report& report, double seconds) {
  const char* phase = report.prefill_rows == 0  ? "decode"
                      : report.decode_rows == 0 ? "prefill"
                                                : "mixed";
  step_seconds_.at(phase)->Observe(seconds);
  batch_rows_.Observe(report.prefill_rows + report.decode_rows + report.draft_rows);
}

void node_metrics::on_pull(const pull_outcome& outcome) {
  if (outcome.failure.code != ec::none) {
    auto it = pull_failures_.find(outcome.failure.code);
    (it == pull_failures_.end() ? pull_failures_.at(ec::internal) : it->second)->Increment();
    if (outcome.failure.code == ec::fence_mismatch)
      for (bool ok : outcome.ok) checksum_failures_.Increment(ok ? 0 : 1);
    return;
  }
  auto seconds = pull_seconds_.find(outcome.via);
  if (seconds == pull_seconds_.end()) return;
  seconds->second->Observe(std::chrono::duration<double>(outcome.duration).count());
  pull_bytes_.at(outcome.via)->Increment(static_cast<double>(outcome.bytes));
}

void node_metrics::on_store_fetch(const std::string& outcome, std::uint64_t tokens, double seconds,
                                  double saved_seconds) {
  store_fetches_.at(outcome)->Increment();
  store_tokens_.Increment(static_cast<double>(tokens));
  (saved_seconds > 0 ? store_saved_ : store_lost_).Increment(std::abs(saved_seconds));
  if (tokens > 0) store_fetch_seconds_.Observe(seconds);
}

void node_metrics::on_guess(const std::string& outcome) {
  guesses_.at(outcome)->Increment();
}

void node_metrics::update(const engine::engine_stats& now) {
  std::lock_guard lock(mutex_);
  advance(prefill_tokens_, last_.prefill_tokens, now.prefill_tokens);
  advance(decode_tokens_, last_.decode_tokens, now.decode_tokens);
  advance(preemptions_, last_.preemptions, now.preemptions);
  advance(evictions_, last_.evictions, now.evictions);
  advance(prefix_queries_, last_.prefix_queries, now.prefix_queries);
  advance(prefix_hits_, last_.prefix_hits, now.prefix_hits);
  advance(leases_expired_, last_.leases_expired, now.leases_expired);
  const auto &before = last_.speculation, &spec = now.speculation;
  advance(*drafted_.at("text"), before.drafted - before.draft_drafted - before.history_drafted,
          spec.drafted - spec.draft_drafted - spec.history_drafted);
  advance(*drafted_.at("history"), before.history_drafted, spec.history_drafted);
  advance(*drafted_.at("draft"), before.draft_drafted, spec.draft_drafted);
  advance(*accepted_.at("text"), before.accepted - before.draft_accepted - before.history_accepted,
          spec.accepted - spec.draft_accepted - spec.history_accepted);
  advance(*accepted_.at("history"), before.history_accepted, spec.history_accepted);
  advance(*accepted_.at("draft"), before.draft_accepted, spec.draft_accepted);
  advance(*branches_.at("won"), before.branches_won, spec.branches_won);
  advance(*branches_.at("lost"), before.branches - before.branches_won,
          spec.branches - spec.branches_won);
  draft_wanted_.Set(spec.draft_wanted ? 1 : 0);
  advance(*speculation_.at("drafted"), before.speculated, spec.speculated);
  advance(*speculation_.at("declined"), before.declined, spec.declined);
  advance(*speculation_.at("unguessed"), before.unguessed, spec.unguessed);
  draft_length_.Set(spec.speculated > before.speculated
                        ? static_cast<double>(spec.drafted - before.drafted) /
                              static_cast<double>(spec.speculated - before.speculated)
                        : 0);
  last_ = now;
  blocks_.at("free")->Set(now.blocks_free);
  blocks_.at("cached")->Set(now.blocks_cached);
  blocks_.at("writing")->Set(now.blocks_writing);
  blocks_.at("sealed")->Set(now.blocks_sealed);
  blocks_.at("pulling")->Set(now.blocks_pulling);
  blocks_.at("quarantined")->Set(now.blocks_quarantined);
  requests_.at("running")->Set(now.running);
  requests_.at("waiting")->Set(now.waiting);
  requests_.at("waiting_remote")->Set(now.waiting_remote);
  requests_.at("held")->Set(now.held);
  leases_.Set(now.held);
}

// -- gateway -------------------------------------------------------------------------------------------------------------

gateway_metrics::gateway_metrics(const std::string& node)
    : process_metrics({{"node", node}, {"role", "gateway"}}),
      route_seconds(histogram("troupe_route_duration_seconds",
                              "Time to choose the nodes of a request", transfer_buckets)),
      admission_wait_seconds(histogram("troupe_admission_wait_seconds",
                                       "Time in the gateway's queue before a request is routed",
                                       step_buckets)),
      requests_in_flight(
          gauge("troupe_gateway_requests_in_flight", "Requests that the gateway follows")),
      admission_waiting(gauge("troupe_admission_waiting", "Requests in the gateway's queue")),
      route_known_blocks(gauge("troupe_route_known_blocks",
                               "KV blocks that the router knows to be held somewhere")),
      route_events(counter("troupe_route_kv_events_total",
                           "Blocks that nodes told the router came or went")),
      route_snapshots(counter("troupe_route_kv_snapshots_total",
                              "Nodes whose content the router learned from the beginning")) {
  for (const char* choice : {"local", "remote", "local_store", "remote_store"}) {
    const prometheus::Labels labels{{"choice", choice}};
    choices_[choice] = {
        &histogram("troupe_route_ttft_predicted_seconds",
                   "Time from a route's choice to the first token, as the router predicted it",
                   step_buckets, labels),
        &histogram("troupe_route_ttft_measured_seconds",
                   "Time from a route's choice to the first token, as it was", step_buckets,
                   labels),
        &histogram("troupe_route_ttft_error_seconds",
                   "Distance between the router's predicted and the measured time to first token",
                   error_buckets, labels),
        &counter("troupe_route_cached_tokens_total",
                 "Prompt tokens that the router expected to be cached where it sent them", labels)};
  }
  for (ec why : admission_errors)
    refusals_[why] =
        &counter("troupe_admission_refused_total", "Requests that the gateway did not take",
                 {{"reason", std::string(to_string(why))}});
  for (const char* reason : {"remote_prefill", "short_prompt", "local_faster", "no_prefill_node",
                             "local_only", "prefix_cached", "refused"})
    routes_[reason] = &counter("troupe_route_decisions_total", "Routing decisions by reason",
                               {{"reason", reason}});
  for (const char* outcome : {"resumed", "failed"})
    migrations_[outcome] = &counter(
        "troupe_migrations_total", "Requests moved to another decode node", {{"outcome", outcome}});
  for (const char* r : {"prefill", "decode", "kv-store", "draft"}) {
    lost_[r] = &counter("troupe_workers_lost_total", "Nodes that went without having drained",
                        {{"worker_role", r}});
    restarted_[r] = &counter("troupe_worker_restarts_total",
                             "Child processes of the server that ended and were started again",
                             {{"worker_role", r}});
    given_up_[r] =
        &gauge("troupe_workers_given_up",
               "Child processes of the server that do not start and are not started again",
               {{"worker_role", r}});
    for (const char* s : {"joining", "ready", "draining", "lost"})
      workers_[{r, s}] =
          &gauge("troupe_workers", "Nodes by role and state", {{"worker_role", r}, {"state", s}});
  }
}

void gateway_metrics::on_route(const std::string& choice, std::uint64_t predicted_us,
                               std::uint32_t cached_tokens) {
  const auto& m = choices_.at(choice);
  m.predicted->Observe(static_cast<double>(predicted_us) * 1e-6);
  m.cached_tokens->Increment(cached_tokens);
}

void gateway_metrics::on_first_token(const std::string& choice, std::uint64_t predicted_us,
                                     double seconds) {
  const auto& m = choices_.at(choice);
  m.measured->Observe(seconds);
  m.error->Observe(std::abs(seconds - static_cast<double>(predicted_us) * 1e-6));
}

prometheus::Counter& gateway_metrics::route_decision(const std::string& reason) {
  return *routes_.at(reason);
}
prometheus::Counter& gateway_metrics::admission_refused(ec why) {
  return *refusals_.at(why);
}
prometheus::Counter& gateway_metrics::migration(const std::string& outcome) {
  return *migrations_.at(outcome);
}

prometheus::Counter& gateway_metrics::worker_lost(const std::string& role) {
  return *lost_.at(role);
}
prometheus::Counter& gateway_metrics::worker_restarted(const std::string& role) {
  return *restarted_.at(role);
}
prometheus::Gauge& gateway_metrics::workers_given_up(const std::string& role) {
  return *given_up_.at(role);
}

void gateway_metrics::set_workers(
    const std::map<std::pair<std::string, std::string>, int>& by_role_and_state) {
  for (auto& [key, g] : workers_) {
    auto it = by_role_and_state.find(key);
    g->Set(it == by_role_and_state.end() ? 0 : it->second);
  }
}

void gateway_metrics::set_heartbeat_ages(const std::map<std::string, double>& seconds_by_node) {
  static constexpr const char* metric = "troupe_worker_last_heartbeat_age_seconds";
  std::lock_guard lock(mutex_);
  for (auto at = heartbeat_ages_.begin(); at != heartbeat_ages_.end();) {
    const auto old = at++;
    if (seconds_by_node.contains(old->first)) continue;
    forget(metric, *old->second);
    heartbeat_ages_.erase(old);
  }
  for (const auto& [node, seconds] : seconds_by_node) {
    auto& g = heartbeat_ages_[node];
    if (g == nullptr) g = &gauge(metric, "Time since a node's last heartbeat", {{"worker", node}});
    g->Set(seconds);
  }
}

}  // namespace troupe::actors
