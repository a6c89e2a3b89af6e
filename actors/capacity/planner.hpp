// What plan_capacity() runs: the shells around the product's plain objects, as plain code under virtual time. Each part
// does what its actor does, message for message; where one is changed, the other is.
//
//   arrive ─► admission_queue ─► route_policy ─► decode: add or add_remote ─► tokens ─► close
//             (gateway)          (router)          └─► prefill: add ─► first token, blocks ─► link ─► pull_ended
//
// One thread, one run.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "actors/capacity/event_queue.hpp"
#include "actors/capacity/log_histogram.hpp"
#include "actors/capacity/plan.hpp"
#include "actors/capacity/timed_runner.hpp"
#include "actors/route_policy.hpp"
#include "engine/engine.hpp"

namespace troupe::actors {

class planner {
 public:
  using time_point = engine::time_point;

  planner(const std::vector<trace_request>& trace, const plan_options& options);
  result<void> build();
  plan_report run();

 private:
  static constexpr hash128_t kv_identity{1, 1};  // of every node
  using command = std::function<void(engine::engine&, time_point)>;
  struct node {
    role kind = role::decode;
    const device_profile* profile = nullptr;
    std::unique_ptr<timed_runner> runner;
    std::shared_ptr<engine::prefix_journal> journal;  // null: it keeps no prefixes
    std::unique_ptr<engine::engine> engine;
    std::vector<command> queue;
    std::uint32_t max_num_seqs = 0;
    bool busy = false;
    std::optional<time_point> scheduled;
    std::chrono::nanoseconds computed{0};
    time_point link_free{};  // its network card is at another pull until then
    double pull_bytes_per_second = 0;
  };
  struct remote_part {
    std::uint32_t peer = 0;
    bool all_announced = false;
    std::uint32_t pulls_running = 0;
    time_point last_progress{};
  };
  // A request, from its arrival to its end.
  struct flight {
    const trace_request* asked = nullptr;
    std::uint32_t copy = 0;
    time_point arrived{}, deadline{}, first{}, last{};
    std::uint32_t tokens = 0, cached = 0, transferred = 0, remote_cached = 0;
    attempt try_number = 0;
    std::vector<std::uint64_t> excluded;
    std::uint32_t decode = 0;
    std::optional<remote_part> remote;
    bool over = false, dispatched = false, blocks_lost = false;
  };
  using flight_index = std::uint32_t;

  // -- the gateway and its router (planner.cpp)
  void make_flights();
  void arrive(flight_index f);
  void admit();
  std::size_t room() const;
  void route(flight_index f);
  void retry(flight_index f, ec why);
  void close(flight_index f, std::optional<ec> failure);
  void check_deadline(flight_index f);
  void hear_heartbeats();
  void hear_prefixes(const node& n);

  // -- decode and prefill nodes (planner_nodes.cpp)
  result<void> make_node(node& n, role kind, const device_profile& profile);
  std::vector<token_id> prompt_of(flight_index f) const;
  engine::generation_request request_of(flight_index f, bool prefill_only) const;
  void start_decode(flight_index f, attempt t);
  void start_prefill(flight_index f, attempt t, std::uint32_t peer);
  void on_decode_refused(flight_index f, attempt t, ec why);
  void on_blocks(flight_index f, attempt t, std::uint32_t first_block,
                 std::vector<engine::block_descriptor> blocks, bool last);
  void pull(flight_index f, attempt t, std::uint32_t peer, engine::pull_plan plan);
  void on_pull(flight_index f, attempt t, bool ok);
  void end_remote(flight_index f, bool compute_rest);
  void watch_silence(flight_index f, attempt t);
  flight* current(flight_index f, attempt t);

  void post(node& n, command c);
  void wake_at(node& n, time_point t);
  void turn(node& n);
  void next(node& n);
  void hand_out(node& n, const engine::events& e);
  void hear_decode(const engine::events& e);
  void hear_prefill(const engine::events& e);

  plan_report settle() const;
  role_use use_of(role kind, double span) const;

  time_point now() const { return events_.now(); }
  time_point after_message() const { return now() + message_; }

  const std::vector<trace_request>& trace_;
  const plan_options options_;
  event_queue events_;
  const time_point begin_;
  std::chrono::nanoseconds message_{0}, door_{0};
  std::vector<std::byte> arena_;  // of every node: nobody writes into it
  std::vector<node> nodes_;       // decode nodes, then prefill nodes
  std::size_t decode_seqs_ = 0;   // that run at once on all decode nodes
  std::vector<flight> flights_;
  admission_queue admission_;
  route_policy policy_;
  membership membership_;
  std::uint64_t open_ = 0, to_come_ = 0, events_run_ = 0;
  time_point last_end_{};
  std::map<std::string, std::uint64_t> refused_, routes_;
  std::uint64_t leases_expired_ = 0, pulls_late_ = 0;
  log_histogram gaps_;
};

}  // namespace troupe::actors
