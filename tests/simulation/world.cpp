#include "tests/simulation/world.hpp"

#include <caf/event_based_actor.hpp>
#include <caf/send.hpp>

#include "base/log.hpp"
#include "tests/simulation/abort_note.hpp"
#include "tests/simulation/hash_runner.hpp"
#include "tests/simulation/skewed_fabric.hpp"

namespace troupe::simulation {
namespace {

constexpr std::uint16_t server_port = 100;

}  // namespace

world::world(const scenario& s, const run_options& options)
    : scenario_(s),
      trace_(options.keep_trace),
      chance_(s.seed * 0xD1B54A32D192ED03ull + 7),
      system_(config_),
      scheduler_(dynamic_cast<caf::scheduler::test_coordinator&>(system_.scheduler())),
      events_(time_point(std::chrono::hours(1))),
      network_(system_, events_, chance_, trace_),
      fabric_(transport::make_sim_network(s.seed, events_.now())),
      begin_(events_.now()),
      store_layout_(make_device(s.device, s.block_tokens, {})->layout()) {
  spdlog::set_level(spdlog::level::off);  // faults by the thousand; the trace tells what matters
  scheduler_.clock().current_time = events_.now();
  network_.weather = s.network;
  network_.weather.lose = s.drafts.lose;
  if (s.drafts.liar)
    network_.distort = [this](process_id from, const caf::message& m) {
      return process_of(scenario_.num_nodes()) == from ? nonsense(m) : m;
    };
  fabric_->faults() = s.fabric;
  start_server();
  for (std::uint32_t i = 1; i <= s.num_nodes(); ++i) start_node(i);
  start_clients();
  schedule_faults();
}

world::~world() {
  for (auto& [index, n] : nodes_)
    if (n.process != 0) end_process(n.process, true);
  end_process(server_, true);
  for (auto& c : clients_) end_process(c.process, true);
  for (auto& [index, n] : nodes_) n.runtime.reset();
  nodes_.clear();
  clients_.clear();
  server_actors_ = {};
  events_.clear();
  network_.close();
  scheduler_.clock().cancel_all();
  while (scheduler_.try_run_once()) {
  }
}

// -- building --------------------------------------------------------------------------------------------------------------

void world::start_server() {
  server_ = network_.start("server", "server");
  actors::membership_options m;
  m.expected_model = to_hex(served_model()->digest);
  m.expected_model_text = "the tiny model";
  server_actors_ = actors::spawn_server(system_, m, {}, std::make_shared<actors::local_nodes>(),
                                        network_.connector(server_));
  network_.own(server_, caf::actor_cast<caf::strong_actor_ptr>(server_actors_.directory));
  network_.own(server_, caf::actor_cast<caf::strong_actor_ptr>(server_actors_.router));
  network_.own(server_, caf::actor_cast<caf::strong_actor_ptr>(server_actors_.gateway));
  // Nodes reach the directory at one port and programs the gateway at another of the same process.
  network_.publish(server_, server_port,
                   caf::actor_cast<caf::strong_actor_ptr>(server_actors_.directory));
  network_.publish(server_, server_port + 1,
                   caf::actor_cast<caf::strong_actor_ptr>(server_actors_.gateway));
  auto& info = server_actors_.context->info;
  info.name = "gateway";
  info.start = (next_start_++ << 32) | 7;
  info.kind = actors::role::gateway;
  info.host = "server";
  info.port = server_port + 1;
  server_actors_.context->published = true;
  trace_.say(events_.now(), [] { return "the server starts"; });
}

time_point world::to_local(std::uint32_t index, time_point t) const {
  if (index - 1 >= scenario_.skew.size()) return t;
  const auto& s = scenario_.skew[index - 1];
  return begin_ + s.offset +
         nanoseconds(static_cast<std::int64_t>(static_cast<double>((t - begin_).count()) * s.rate));
}

time_point world::to_true(std::uint32_t index, time_point t) const {
  if (index - 1 >= scenario_.skew.size()) return t;
  const auto& s = scenario_.skew[index - 1];
  // One more nanosecond, so that a deadline has passed when its turn comes, whatever was rounded.
  return begin_ +
         nanoseconds(1 + static_cast<std::int64_t>(
                             static_cast<double>((t - begin_ - s.offset).count()) / s.rate));
}

turn_context world::turn_context_of(node& n) {
  return {[this] { return events_.now(); },
          [this, index = n.index](time_point t) { return to_local(index, t); },
          [this, index = n.index](time_point t) { return to_true(index, t); },
          [this, p = n.process](time_point t, std::function<void()> action) {
            network_.at_process(p, t, std::move(action));
          },
          &chance_};
}

// What a slow device, a busy machine adds to a turn.
nanoseconds world::hiccup(const node& n, nanoseconds longest) {
  return n.slow_until <= events_.now() ? nanoseconds(0) : chance_.between(nanoseconds(0), longest);
}

actors::node_platform world::platform_of(node& n) {
  actors::node_platform p;
  const auto index = n.index;
  p.make_runner = [this, &n](
                      std::shared_ptr<const model::loaded_model>,
                      const gpu::runner_options& o) -> result<std::unique_ptr<gpu::model_runner>> {
    const auto other = scenario_.is_draft(n.index) ? scenario_.drafts.other_percent : 0;
    auto made = make_device(scenario_.device, scenario_.block_tokens, o, other);
    n.device = made.get();
    return made;
  };
  p.make_fabric = [this, &n, index](
                      incarnation self, const auto&, const auto&,
                      transport::event_sink sink) -> result<std::unique_ptr<transport::fabric>> {
    auto made =
        std::make_unique<skewed_fabric>(fabric_->make_fabric(self, std::move(sink)),
                                        [this, index](time_point t) { return to_true(index, t); });
    n.fabric = made.get();
    return made;
  };
  p.make_driver = [this, &n](
                      std::unique_ptr<engine::engine> e,
                      actors::engine_driver::hooks h) -> std::unique_ptr<actors::engine_driver> {
    stepped_engine::context c{turn_context_of(n), {}, {}, {}};
    c.turned = [this, &n] {
      trace_.mark(events_.now(), 3, n.index);
      check_node(n);
    };
    c.told = [this, &n](const engine::step_report& r) {
      if (!r.worked && r.happened.empty()) return;
      trace_.say(events_.now(), [&] {
        std::string text = scenario_.process_name(n.index) + " computes " +
                           std::to_string(r.prefill_rows) + "+" + std::to_string(r.decode_rows) +
                           " rows:";
        for (const auto& t : r.happened.tokens)
          for (const auto& token : t.tokens)
            text += " token " + std::to_string(token.index) + " of " + std::to_string(raw(t.id));
        for (const auto& b : r.happened.blocks_ready)
          text += " blocks " + std::to_string(b.first_block) + "+" +
                  std::to_string(b.blocks.size()) + " of " + std::to_string(raw(b.id));
        for (const auto& f : r.happened.finished)
          text += " end of " + std::to_string(raw(f.id)) + " (" +
                  std::string(engine::to_string(f.reason)) + ")";
        return text;
      });
    };
    c.cost = [this, &n](const engine::step_report& r) -> nanoseconds {
      using std::chrono::microseconds;
      if (!r.worked) return microseconds(2);
      auto took =
          microseconds(300) + (r.prefill_rows + r.decode_rows + r.draft_rows) * microseconds(40);
      took += microseconds(chance_.below(static_cast<std::uint64_t>(took.count())));
      return took + hiccup(n, nanoseconds(300'000'000));
    };
    auto driver = std::make_unique<stepped_engine>(std::move(e), std::move(h), std::move(c));
    n.driver = driver.get();
    return driver;
  };
  p.make_draft_driver = [this, &n](std::unique_ptr<engine::draft_engine> e,
                                   actors::draft_driver::hooks h) {
    return make_drafter(n, std::move(e), std::move(h));
  };
  p.publish = [this, &n](actors::role, const caf::strong_actor_ptr& actor,
                         const actors::network_settings& net) -> result<std::uint16_t> {
    network_.publish(n.process, net.port, actor);
    return net.port;
  };
  p.connector = network_.connector(n.process);
  p.new_incarnation = [this, &n] { return n.start = (next_start_++ << 32) | n.index; };
  p.now = [this, index] { return to_local(index, events_.now()); };
  p.pass_clock = [this, &n] {
    auto* device = scenario_.drafts.measured ? dynamic_cast<hash_runner*>(n.device) : nullptr;
    return events_.now() + (device == nullptr ? nanoseconds(0) : device->computed());
  };
  p.store_layout = store_layout_;
  return p;
}

void world::start_node(std::uint32_t index) {
  auto& n = nodes_[index];
  TROUPE_ASSERT(n.process == 0);
  n.index = index;
  n.leaving = false;
  n.neighbours = std::make_shared<actors::local_nodes>();
  const auto name = scenario_.process_name(index);
  const auto port = static_cast<std::uint16_t>(server_port + 10 + index);
  n.process = network_.start(name, name);
  actors::node_options o;
  o.name = name;
  o.role = index <= scenario_.num_decode ? "decode"
           : scenario_.is_store(index)   ? "kv-store"
           : scenario_.is_draft(index)   ? "draft"
                                         : "prefill";
  o.model_name = "tiny";
  o.engine.max_num_seqs = scenario_.max_num_seqs;
  o.engine.max_num_batched_tokens = scenario_.max_num_batched_tokens;
  o.engine.max_prefill_chunk = scenario_.max_prefill_chunk;
  o.engine.num_kv_blocks =
      scenario_.is_draft(index) ? scenario_.drafts.num_blocks : scenario_.num_blocks;
  o.engine.speculation = speculation();
  o.engine.max_waiting = scenario_.max_waiting;
  o.engine.lease = scenario_.lease;
  o.engine.prefix_caching = scenario_.prefix_caching;
  o.runner.block_tokens = scenario_.block_tokens;
  o.store.memory_bytes = scenario_.store_blocks * store_layout_.block_bytes();
  o.network.host = name;
  o.network.port = port;
  auto started = actors::node_runtime::start(
      system_, platform_of(n), o, served_model(),
      actors::join_target{actors::directory_actor{}, "server", server_port}, n.neighbours);
  if (!started) {  // no memory: it is tried again later, as systemd would
    trace_.say(events_.now(),
               [&] { return name + " does not start: " + to_string(started.error()); });
    end_node(index, false, milliseconds(500));
    return;
  }
  n.runtime = std::move(*started);
  if (n.previous_start != 0) fabric_->succeed(incarnation{n.previous_start}, incarnation{n.start});
  for (const auto& a : n.runtime->actors()) network_.own(n.process, a);
  trace_.say(events_.now(),
             [&] { return name + " starts, incarnation " + std::to_string(n.start); });
}

void world::start_clients() {
  clients_.resize(scenario_.num_clients);
  for (std::uint32_t i = 0; i < scenario_.num_clients; ++i) {
    auto& c = clients_[i];
    const auto name = "client-" + std::to_string(i);
    c.process = network_.start(name, name);
    c.book = std::make_shared<client_book>();
    c.book->server_host = "server";
    c.book->server_port = server_port + 1;
    c.book->connector = network_.connector(c.process);
    c.book->now = [this] { return events_.now(); };
    c.book->heard = [this](const conversation& x) { check_conversation(x); };
    c.actor = caf::actor_cast<caf::strong_actor_ptr>(system_.spawn(client, c.book));
    network_.own(c.process, c.actor);
  }
  std::uint64_t id = 0;
  for (const auto& q : scenario_.requests) {
    auto& talk = conversations_.emplace_back(std::make_unique<conversation>());
    talk->asked = q;
    talk->id = ++id;
    auto& c = clients_[q.client];
    c.book->conversations[talk->id] = talk.get();
    // Nodes need a moment to join; a cluster that is not there yet is another test.
    const auto at = begin_ + milliseconds(600) + q.at;
    auto tell = [this, &c, id](auto verb) {
      caf::anon_send(caf::actor_cast<caf::actor>(c.actor), verb, std::uint64_t{id});
    };
    network_.at_process(c.process, at, [this, tell, id] {
      trace_.say(events_.now(), [&] { return "request " + std::to_string(id) + " is asked"; });
      tell(caf::ok_atom_v);
    });
    if (q.cancel_after.count() > 0)
      network_.at_process(c.process, at + q.cancel_after, [tell] { tell(caf::tick_atom_v); });
  }
}

// -- time ------------------------------------------------------------------------------------------------------------------

bool world::run_one_actor() {
  auto& jobs = scheduler_.jobs;
  // By chance, so that one seed is one order; of stopped processes nobody runs.
  std::size_t candidates[64], count = 0;
  for (std::size_t i = 0; i < jobs.size() && count < 64; ++i) {
    auto* actor = dynamic_cast<caf::scheduled_actor*>(jobs[i]);
    const auto owner = actor == nullptr ? 0 : network_.owner_of(actor->id());
    if (owner == 0 || !network_.paused(owner)) candidates[count++] = i;
  }
  if (count == 0) return false;
  const auto i = candidates[chance_.below(count)];
  auto* job = jobs[i];
  jobs.erase(jobs.begin() + static_cast<std::ptrdiff_t>(i));
  jobs.push_front(job);
  auto* actor = dynamic_cast<caf::scheduled_actor*>(job);
  trace_.mark(events_.now(), 1, actor == nullptr ? 0 : actor->id());
  scheduler_.run_once();
  return true;
}

bool world::run_next(time_point until) {
  if (run_one_actor()) return true;
  if (events_.run_one()) {
    check_fabric();
    return true;
  }
  auto next = events_.next();
  auto sooner = [&](std::optional<time_point> t) {
    if (t && (!next || *t < *next)) next = t;
  };
  sooner(fabric_->next_event_time());
  const auto& timers = scheduler_.clock().schedule();
  if (!timers.empty()) sooner(timers.begin()->first);
  if (!next || *next > until) {
    events_.move_clock(until);
    fabric_->advance(until);
    return false;
  }
  events_.move_clock(*next);
  if (events_.now() > fabric_->now() || fabric_->next_event_time()) {
    const auto before = fabric_->events_delivered();
    fabric_->advance(events_.now());
    trace_.mark(events_.now(), 2, fabric_->events_delivered() - before);
    check_fabric();
  }
  if (events_.now() > scheduler_.clock().current_time)
    scheduler_.advance_time(events_.now() - scheduler_.clock().current_time);
  return true;
}

void world::run_until(time_point until, const std::function<bool()>& done) {
  while (violation_.empty() && events_.now() < until && !done()) {
    if (!run_next(until)) return;
  }
}

outcome world::run() {
  const auto span = milliseconds(600) +
                    (scenario_.requests.empty() ? milliseconds(0) : scenario_.requests.back().at);
  // Every request ends within its bound; a bound that is missed is found by check_bounds.
  std::function<void()> watch = [&] {
    watch_nodes();
    check_bounds();
    events_.after(milliseconds(100), watch);
  };
  events_.after(milliseconds(100), watch);
  auto over = [this, span] {
    if (events_.now() < begin_ + span) return false;
    for (const auto& c : conversations_)
      if (!c->over()) return false;
    return true;
  };
  run_until(begin_ + std::chrono::minutes(10), over);
  if (violation_.empty() && !over()) violated("the schedule does not end");
  // Then nothing may be left once every fault, lease and watchdog has ended.
  milliseconds last{0};
  for (const auto& f : scenario_.faults)
    last = std::max(last, f.at + f.duration + milliseconds(1500));
  const auto quiet = std::max(events_.now(), begin_ + milliseconds(600) + last) + scenario_.lease +
                     milliseconds(16'000);
  run_until(quiet, [] { return false; });
  if (violation_.empty()) check_quiescence();
  outcome out;
  settle(out);
  return out;
}

outcome run(const scenario& s, const run_options& options) {
  const abort_note note(s);
  world w(s, options);
  return w.run();
}

}  // namespace troupe::simulation
