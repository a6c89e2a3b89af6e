// Stand-ins for the rooms behind the doors: a byte-level toy tokenizer, a toy template, a service that plays scripts,
// and an exchange without sockets.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <span>
#include <thread>

#include "actors/service.hpp"
#include "api/application.hpp"
#include "api/http_types.hpp"
#include "api/served_model.hpp"
#include "api/sse.hpp"
#include "model/chat_template.hpp"
#include "model/tokenizer.hpp"

namespace troupe::api::testing {

// Ids 0..255 are bytes; then special tokens and some tokens of several bytes.
enum : token_id {
  end_token = 256,
  user_token = 257,
  assistant_token = 258,
  hello_token = 259,
  grin_head = 260,
  grin_tail = 261,
  toy_vocab = 262
};

class toy_tokenizer : public model::tokenizer {
 public:
  std::vector<token_id> encode(std::span<const model::text_segment> segments, bool) const override {
    std::vector<token_id> ids;
    for (const auto& s : segments)
      for (std::size_t i = 0; i < s.text.size();) {
        bool special = false;
        for (token_id id = end_token; s.parse_special && id <= assistant_token && !special; ++id)
          if (s.text.compare(i, texts_[id - 256].size(), texts_[id - 256]) == 0) {
            ids.push_back(id);
            i += texts_[id - 256].size();
            special = true;
          }
        if (!special) ids.push_back(static_cast<unsigned char>(s.text[i++]));
      }
    return ids;
  }
  std::string token_bytes(token_id id, bool render_special) const override {
    TROUPE_ASSERT(id < toy_vocab);
    if (id < 256) return std::string(1, static_cast<char>(id));
    return is_special(id) && !render_special ? std::string() : texts_[id - 256];
  }
  std::size_t vocab_size() const override { return toy_vocab; }
  bool is_special(token_id id) const override { return id >= end_token && id <= assistant_token; }
  std::optional<token_id> bos() const override { return {}; }
  const std::vector<token_id>& end_of_generation() const override { return ends_; }
  std::optional<token_id> find(std::string_view text) const override {
    for (token_id i = 0; i < texts_.size(); ++i)
      if (texts_[i] == text) return 256 + i;
    return {};
  }
  std::string description() const override { return "toy"; }

 private:
  const std::vector<token_id> ends_{end_token};
  const std::vector<std::string> texts_{"<|end|>", "<|user|>", "<|assistant|>",
                                        "hello",   "\xF0\x9F", "\x98\x80"};
};

class toy_template : public model::chat_template {
 public:
  result<std::vector<model::text_segment>> render(const nlohmann::json& context) const override {
    if (context.value("explode", false)) return fail(ec::invalid_argument, "the template says no");
    std::vector<model::text_segment> out;
    for (const auto& m : context["messages"]) {
      out.push_back({m["role"] == "assistant" ? "<|assistant|>" : "<|user|>", true});
      out.push_back({m["content"].get<std::string>(), false});
      out.push_back({"<|end|>", true});
    }
    if (context["add_generation_prompt"].get<bool>()) out.push_back({"<|assistant|>", true});
    return out;
  }
  result<std::vector<model::text_segment>> render_ordered(
      const nlohmann::ordered_json& context) const override {
    return render(nlohmann::json::parse(context.dump()));
  }
  bool wants_content_parts() const override { return false; }
  model::tool_support tools() const override { return {}; }
  bool mentions(std::string_view) const override { return false; }
};

inline std::vector<token_id> tokens_of(std::string_view text) {
  std::vector<token_id> ids;
  for (unsigned char c : text) ids.push_back(c);
  return ids;
}

// What the fake plays for one generation.
struct script {
  std::vector<token_id> tokens = tokens_of("Hi there");
  std::size_t per_event = 1;
  std::chrono::milliseconds before_accept{0}, between{0};
  engine::finish_reason reason = engine::finish_reason::stop;
  error failure{ec::none, {}};
  std::size_t fail_after = std::string::npos;  // tokens; then `failure`
  bool accept = true;
  bool hang = false;  // never ends unless canceled
  bool deaf = false;  // does not even react to cancel until the fake is destroyed
};

class fake_service : public actors::generation_service {
 public:
  using chooser = std::function<script(const actors::generation&)>;
  explicit fake_service(chooser choose = [](const auto&) { return script{}; })
      : choose_(std::move(choose)) {}
  ~fake_service() override { stop(); }
  void stop() {
    stopping_ = true;
    for (auto& t : threads_) t.join();
    threads_.clear();
  }

  request_id submit(actors::generation g, std::shared_ptr<actors::generation_sink> sink) override {
    std::lock_guard lock(mutex_);
    const auto id = static_cast<request_id>(++next_);
    auto cancel = std::make_shared<std::atomic<bool>>(false);
    cancels_[id] = cancel;
    submitted_.push_back(g);
    ++running_;
    threads_.emplace_back(
        [this, g = std::move(g), sink = std::move(sink), cancel] { play(g, *sink, *cancel); });
    return id;
  }
  std::uint32_t max_model_len() const override { return longest_; }
  void hold_at_most(std::uint32_t tokens) { longest_ = tokens; }
  void cancel(request_id id) override {
    std::lock_guard lock(mutex_);
    if (auto it = cancels_.find(id); it != cancels_.end() && !it->second->exchange(true))
      ++canceled_;
  }
  actors::cluster_status status() const override {
    std::lock_guard lock(mutex_);
    return status_;
  }
  std::uint64_t clear_stores(std::chrono::milliseconds) override { return 7; }
  result<actors::pinned_prefix> pin_prefix(const actors::prefix_pin& what,
                                           std::chrono::milliseconds) override {
    return actors::pinned_prefix{what.tokens.empty() ? 3 : what.tokens.size() / 16,
                                 std::string(32, what.pinned ? 'a' : 'b')};
  }
  result<void> drain_node(const std::string& name, std::chrono::milliseconds, bool,
                          bool force) override {
    if (name == "decode-0" && !force) return fail(ec::invalid_argument, "the only decode node");
    if (name.rfind("decode", 0) != 0) return fail(ec::not_found, "no node named " + name);
    return {};
  }
  std::string metrics_text(std::chrono::milliseconds) override {
    return "# HELP troupe_fake_total A fake\n# TYPE troupe_fake_total counter\ntroupe_fake_total "
           "1\n";
  }

  void set_status(actors::cluster_status s) {
    std::lock_guard lock(mutex_);
    status_ = std::move(s);
  }
  std::vector<actors::generation> submitted() const {
    std::lock_guard lock(mutex_);
    return submitted_;
  }
  // Cancels that came before the generation ended.
  std::size_t canceled_running() const { return canceled_running_; }
  std::size_t running() const { return running_; }

 private:
  bool pause(std::chrono::milliseconds time, const script& s,
             const std::atomic<bool>& cancel) const {
    const auto until = std::chrono::steady_clock::now() + time;
    do {
      if (stopping_ || (cancel && !s.deaf)) return false;
      if (time.count() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    } while (std::chrono::steady_clock::now() < until);
    return true;
  }
  void play(const actors::generation& g, actors::generation_sink& sink,
            const std::atomic<bool>& cancel) {
    const script s = choose_(g);
    actors::generation_end end;
    end.reason = engine::finish_reason::abort;
    end.usage.prompt_tokens = static_cast<std::uint32_t>(g.prompt.size());
    end.usage.cached_tokens = 1;
    end.trace.decode_node = "decode-0";
    if (perform(g, s, sink, cancel)) {
      end.reason = s.failure.code == ec::none ? s.reason : engine::finish_reason::error;
      end.failure = s.failure;
    } else {
      ++canceled_running_;
    }
    sink.on_finished(std::move(end));
    --running_;
  }
  // false: canceled
  bool perform(const actors::generation& g, const script& s, actors::generation_sink& sink,
               const std::atomic<bool>& cancel) {
    if (!pause(s.before_accept, s, cancel)) return false;
    if (!s.accept) return true;
    sink.on_accepted();
    auto with_logprobs = [](std::uint32_t index, token_id id, std::optional<std::uint32_t> k) {
      engine::token_output out{index, id, -0.25f, {}};
      for (std::uint32_t i = 0; k && i < *k; ++i)
        out.top.push_back({(id + i) % 256, -0.25f - static_cast<float>(i)});
      return out;
    };
    if (g.sampling.prompt_logprobs) {
      std::vector<engine::token_output> prompt;
      for (std::uint32_t i = 0; i < g.prompt.size(); ++i)
        prompt.push_back(with_logprobs(i, g.prompt[i], g.sampling.prompt_logprobs));
      sink.on_prompt_logprobs(std::move(prompt));
    }
    const std::size_t count =
        std::min<std::size_t>({s.tokens.size(), s.fail_after, g.sampling.max_tokens});
    for (std::size_t i = 0; i < count;) {
      std::vector<engine::token_output> event;
      for (std::size_t k = 0; k < s.per_event && i < count; ++k, ++i)
        event.push_back(
            with_logprobs(static_cast<std::uint32_t>(i), s.tokens[i], g.sampling.logprobs));
      sink.on_tokens(std::move(event));
      if (!pause(s.between, s, cancel)) return false;
    }
    while (s.hang)
      if (!pause(std::chrono::milliseconds(2), s, cancel)) return false;
    return true;
  }

  const chooser choose_;
  mutable std::mutex mutex_;
  std::uint64_t next_ = 0;
  std::map<request_id, std::shared_ptr<std::atomic<bool>>> cancels_;
  std::vector<actors::generation> submitted_;
  std::vector<std::thread> threads_;
  actors::cluster_status status_ = [] {
    actors::cluster_status s;
    s.ready = true;
    actors::node_status n;
    n.name = "decode-0", n.role = "decode", n.state = "ready", n.blocks_total = 64,
    n.blocks_free = 60;
    s.nodes.push_back(n);
    return s;
  }();
  std::atomic<std::size_t> canceled_ = 0, canceled_running_ = 0, running_ = 0;
  std::atomic<bool> stopping_ = false;
  std::atomic<std::uint32_t> longest_ = 0;
};

inline std::shared_ptr<const served_model> toy_model(std::uint32_t context = 512) {
  auto m = std::make_shared<served_model>();
  m->names = {"toy", "org/toy"};
  m->tokenizer = std::make_shared<toy_tokenizer>();
  m->chat_template = std::make_shared<toy_template>();
  m->max_model_len = context;
  m->architecture = "toy";
  m->digest = "00112233445566778899aabbccddeeff";
  m->created = 1700000000;
  measure_tokens(*m);
  return m;
}

// Plays the connection: records what the handler did, runs posted tasks when told to.
class fake_exchange : public exchange {
 public:
  void post(std::function<void()> task) override {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    wake_.notify_one();
  }
  void respond(http_response r) override {
    ++answers;
    response = std::move(r);
    done = true;
    closed_task_ = nullptr;
    timer_ = nullptr;
  }
  void start_stream(http_response head, std::chrono::milliseconds) override {
    ++answers;
    response = std::move(head);
    streaming = true;
  }
  bool write(std::string_view bytes) override {
    writes.emplace_back(bytes);
    body += bytes;
    return !dropped;
  }
  void end_stream() override {
    done = true;
    closed_task_ = nullptr;
    timer_ = nullptr;
  }
  void when_closed(std::function<void()> task) override { closed_task_ = std::move(task); }
  void after(std::chrono::milliseconds, std::function<void()> task) override {
    timer_ = std::move(task);
  }

  // Runs posted tasks until `until` holds; false after the time limit.
  bool run(const std::function<bool()>& until,
           std::chrono::milliseconds limit = std::chrono::seconds(60)) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (!until()) {
      std::unique_lock lock(mutex_);
      if (!wake_.wait_until(lock, deadline, [this] { return !tasks_.empty(); })) return until();
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
    return true;
  }
  bool run_to_end() {
    return run([this] { return done; });
  }
  void leave() {
    if (auto task = std::exchange(closed_task_, nullptr)) task();
  }
  void expire() {
    if (auto task = std::exchange(timer_, nullptr)) task();
  }

  // What was posted and never run would keep its job, and that this exchange, alive for ever.
  void discard() {
    std::lock_guard lock(mutex_);
    tasks_.clear();
    closed_task_ = nullptr;
    timer_ = nullptr;
  }

  http_response response;
  std::string body;
  std::vector<std::string> writes;
  int answers = 0;
  bool streaming = false, done = false, dropped = false;

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  std::function<void()> closed_task_, timer_;
};

inline http_request make_request(std::string method, std::string target, std::string body = {}) {
  http_request r;
  r.method = std::move(method);
  r.target = std::move(target);
  r.body = std::move(body);
  r.received = std::chrono::steady_clock::now();
  return r;
}

// A door over a fake service.
struct door {
  explicit door(
      fake_service::chooser choose = [](const auto&) { return script{}; },
      application_options options = {}, std::shared_ptr<const served_model> model = toy_model())
      : service(std::move(choose)),
        metrics(std::make_shared<frontend_metrics>()),
        app(std::make_shared<application>(std::move(options), service, std::move(model), metrics)) {
  }

  ~door() {
    service.stop();
    for (auto& weak : calls)
      if (auto x = weak.lock()) x->discard();
  }

  std::shared_ptr<fake_exchange> call(http_request request) {
    auto x = std::make_shared<fake_exchange>();
    calls.push_back(x);
    app->handle(std::move(request), x);
    return x;
  }
  // To the end of the answer.
  std::shared_ptr<fake_exchange> ask(std::string method, std::string target,
                                     std::string body = {}) {
    auto x = call(make_request(std::move(method), std::move(target), std::move(body)));
    if (!x->run_to_end()) throw std::runtime_error("no answer in time");
    return x;
  }
  std::shared_ptr<fake_exchange> post(std::string target, const nlohmann::json& body) {
    return ask("POST", std::move(target), body.dump());
  }

  fake_service service;
  std::vector<std::weak_ptr<fake_exchange>> calls;
  std::shared_ptr<frontend_metrics> metrics;
  std::shared_ptr<application> app;
};

inline nlohmann::json json_of(const fake_exchange& x) {
  return nlohmann::json::parse(x.response.body);
}

// The JSON payloads of a stream; the last item is the string "[DONE]" if it came.
inline std::vector<nlohmann::json> chunks_of(const std::string& body) {
  sse_parser parser;
  parser.push(body);
  std::vector<nlohmann::json> out;
  while (auto data = parser.next())
    out.push_back(*data == "[DONE]" ? nlohmann::json("[DONE]") : nlohmann::json::parse(*data));
  return out;
}

}  // namespace troupe::api::testing
