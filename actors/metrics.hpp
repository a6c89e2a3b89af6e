// Prometheus metrics of a node and of a gateway. The catalogue is docs/metrics.md; names follow users.md B3 and B4.
//
// Every family and label value exists from the start, so that rates begin at zero. Values may be updated from any
// thread; text() collects.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "actors/block_puller.hpp"
#include "actors/tls.hpp"
#include "engine/engine.hpp"

namespace troupe::actors {

class process_metrics {
 public:
  explicit process_metrics(const prometheus::Labels& constant);
  void refresh();  // memory, file descriptors, connections that were refused
  std::string text();

  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();

 protected:
  prometheus::Counter& counter(const std::string& name, const std::string& help,
                               const prometheus::Labels& labels = {});
  prometheus::Gauge& gauge(const std::string& name, const std::string& help,
                           const prometheus::Labels& labels = {});
  void forget(const std::string& name,
              prometheus::Gauge& gauge);  // its labels name what is no more
  prometheus::Histogram& histogram(const std::string& name, const std::string& help,
                                   const prometheus::Histogram::BucketBoundaries& buckets,
                                   const prometheus::Labels& labels = {});
  // By what a snapshot added to the one before.
  static void advance(prometheus::Counter& c, std::uint64_t from, std::uint64_t to) {
    if (to > from) c.Increment(static_cast<double>(to - from));
  }

 private:
  const prometheus::Labels constant_;
  std::map<std::string, prometheus::Family<prometheus::Counter>*> counters_;
  std::map<std::string, prometheus::Family<prometheus::Gauge>*> gauges_;
  std::map<std::string, prometheus::Family<prometheus::Histogram>*> histograms_;
  prometheus::Gauge *resident_bytes_, *open_fds_;
  std::mutex refused_mutex_;
  std::map<tls_refusal, std::pair<prometheus::Counter*, std::uint64_t>> connections_refused_;
};

// Of a node whose KV blocks peers may read.
class fabric_metrics : public process_metrics {
 public:
  explicit fabric_metrics(const prometheus::Labels& constant);
  void update_fabric(const transport::fabric_stats& now);

 private:
  std::mutex mutex_;
  transport::fabric_stats last_;
  std::map<transport::refusal, prometheus::Counter*> refused_;
  std::map<transport::path, prometheus::Gauge*> slow_peers_;
};

// Of a node with a device.
class device_metrics : public fabric_metrics {
 public:
  explicit device_metrics(const prometheus::Labels& constant);

  prometheus::Gauge &model_load_seconds, &weight_bytes, &kv_bytes;
};

// Of a prefill or decode node.
class node_metrics : public device_metrics {
 public:
  node_metrics(const std::string& node, const std::string& role);
  void on_step(const engine::step_report& report, double seconds);
  void on_pull(const pull_outcome& outcome);
  void update(
      const engine::engine_stats& now);  // counters advance by what was added since the last update

  // What came of a prompt's lookup in a KV store; tokens fetched, time spent, time saved against computing them.
  void on_store_fetch(const std::string& outcome, std::uint64_t tokens, double seconds,
                      double saved_seconds);

  void on_guess(const std::string& outcome);  // of a draft node: in_time, late, malformed

  prometheus::Gauge& store_connections;
  prometheus::Histogram& store_lookup_seconds;

 private:
  std::mutex mutex_;
  engine::engine_stats last_;
  std::map<std::string, prometheus::Histogram*> step_seconds_;
  prometheus::Histogram& batch_rows_;
  std::map<std::string, prometheus::Gauge*> blocks_;
  std::map<std::string, prometheus::Gauge*> requests_;
  prometheus::Counter &prefill_tokens_, &decode_tokens_, &preemptions_, &evictions_,
      &prefix_queries_, &prefix_hits_, &leases_expired_, &checksum_failures_;
  std::map<std::string, prometheus::Counter*> drafted_, accepted_, guesses_;
  prometheus::Gauge &draft_length_, &draft_wanted_;
  std::map<std::string, prometheus::Counter*> speculation_, branches_;
  prometheus::Gauge& leases_;
  std::map<transport::path, prometheus::Histogram*> pull_seconds_;
  std::map<transport::path, prometheus::Counter*> pull_bytes_;
  std::map<ec, prometheus::Counter*> pull_failures_;
  std::map<std::string, prometheus::Counter*> store_fetches_;
  prometheus::Counter &store_tokens_, &store_saved_, &store_lost_;
  prometheus::Histogram& store_fetch_seconds_;
};

// Of the gateway, its router and its directory.
class gateway_metrics : public process_metrics {
 public:
  explicit gateway_metrics(const std::string& node);
  prometheus::Counter& route_decision(
      const std::string& reason);                              // remote_prefill, short_prompt, ...
  prometheus::Counter& migration(const std::string& outcome);  // resumed, failed
  prometheus::Counter& worker_lost(const std::string& role);
  // Of the server's child processes.
  prometheus::Counter& worker_restarted(const std::string& role);
  prometheus::Gauge& workers_given_up(const std::string& role);
  void set_workers(const std::map<std::pair<std::string, std::string>, int>& by_role_and_state);
  void set_heartbeat_ages(const std::map<std::string, double>& seconds_by_node);  // of all

  prometheus::Counter& admission_refused(ec why);

  // What the router chose and expected of it, and what came of it (seconds from the choice to the first token).
  void on_route(const std::string& choice, std::uint64_t predicted_us, std::uint32_t cached_tokens);
  void on_first_token(const std::string& choice, std::uint64_t predicted_us, double seconds);

  prometheus::Histogram &route_seconds, &admission_wait_seconds;
  prometheus::Gauge &requests_in_flight, &admission_waiting, &route_known_blocks;
  prometheus::Counter &route_events, &route_snapshots;

 private:
  std::mutex mutex_;
  struct choice_metrics {
    prometheus::Histogram *predicted, *measured, *error;
    prometheus::Counter* cached_tokens;
  };
  std::map<std::string, choice_metrics> choices_;
  std::map<std::string, prometheus::Counter*> routes_, migrations_;
  std::map<ec, prometheus::Counter*> refusals_;
  std::map<std::pair<std::string, std::string>, prometheus::Gauge*> workers_;
  std::map<std::string, prometheus::Counter*> lost_, restarted_;
  std::map<std::string, prometheus::Gauge*> given_up_;
  std::map<std::string, prometheus::Gauge*> heartbeat_ages_;
};

}  // namespace troupe::actors
