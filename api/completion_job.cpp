#include "api/completion_job.hpp"

#include <algorithm>

#include "api/completion_job_choice.hpp"
#include "api/sse.hpp"
#include "base/log.hpp"

namespace troupe::api {
namespace {

// After a generation's own time limit the cluster has this long to say so.
constexpr std::chrono::milliseconds grace{5'000};

double seconds_between(std::chrono::steady_clock::time_point a,
                       std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

}  // namespace

class completion_job::sink : public actors::generation_sink {
 public:
  sink(std::shared_ptr<completion_job> job, std::uint32_t choice)
      : job_(std::move(job)), choice_(choice) {}
  void on_accepted() override { job_->enqueue({choice_, false, accepted{}}); }
  void on_prompt_logprobs(std::vector<engine::token_output> tokens) override {
    job_->enqueue({choice_, true, std::move(tokens)});
  }
  void on_tokens(std::vector<engine::token_output> tokens) override {
    job_->enqueue({choice_, false, std::move(tokens)});
  }
  void on_finished(actors::generation_end end) override {
    job_->enqueue({choice_, false, std::move(end)});
  }

 private:
  const std::shared_ptr<completion_job> job_;
  const std::uint32_t choice_;
};

completion_job::completion_job(actors::generation_service& service,
                               std::shared_ptr<const served_model> model,
                               std::shared_ptr<frontend_metrics> metrics, answer_plan plan,
                               std::shared_ptr<exchange> to, decorator decorate, on_done done)
    : service_(service),
      model_(std::move(model)),
      metrics_(std::move(metrics)),
      plan_(std::move(plan)),
      exchange_(std::move(to)),
      decorate_(std::move(decorate)),
      done_task_(std::move(done)) {
  const auto& c = plan_.common;
  options_.stop = c.stop;
  options_.include_stop_str_in_output = c.include_stop_str_in_output;
  options_.skip_special_tokens = c.skip_special_tokens;
  options_.logprobs = c.sampling.logprobs.has_value();
  options_.ignore_eos = c.sampling.ignore_eos;
  options_.stop_token_ids = c.sampling.stop_token_ids;
  options_.min_tokens = c.sampling.min_tokens;
  if (plan_.calls) {
    const auto& notation = engine::structured::notation_of(plan_.calls->syntax);
    for (const auto tag : {notation.open, notation.close, notation.name_key, notation.arguments_key,
                           notation.call_open, notation.call_close})
      if (const auto id = model_->tokenizer->find(tag)) options_.shown_special.push_back(*id);
  }
  for (const auto& prompt : plan_.prompts)
    for (std::uint32_t i = 0; i < c.n; ++i) {
      choices_.emplace_back(static_cast<std::uint32_t>(choices_.size()), prompt, *model_->tokenizer,
                            options_);
      if (plan_.calls) choices_.back().parser.emplace(*plan_.calls);
    }
  metrics_->requests_in_flight->Increment();
  metrics_->requests_queued->Increment();
}

completion_job::~completion_job() {
  if (!done_) end(500);
}

void completion_job::start() {
  auto self = shared_from_this();
  exchange_->when_closed([self] {
    if (self->done_) return;
    self->metrics_->client_disconnects->Increment();
    self->end(200);
  });
  if (done_) return;
  exchange_->after(plan_.timeout + grace, [self] {
    self->fail({ec::deadline_exceeded, "the cluster did not end the generation in time"});
  });
  for (const auto& p : plan_.prompts)
    metrics_->prompt_tokens->Increment(static_cast<double>(p.tokens.size()));
  for (auto& c : choices_) {
    actors::generation g;
    g.prompt = c.prompt.tokens;
    g.sampling = plan_.common.sampling;
    g.sampling.sequence_index = c.index % plan_.common.n;
    // Scoring a prompt still takes one step; its token is dropped.
    g.sampling.max_tokens = std::max(1u, c.prompt.max_tokens);
    g.sampling.min_tokens = std::min(g.sampling.min_tokens, g.sampling.max_tokens);
    g.cache_salt = plan_.common.cache_salt;
    g.tenant = plan_.tenant;
    g.priority = plan_.common.priority;
    g.timeout = plan_.timeout;
    c.id = service_.submit(std::move(g), std::make_shared<sink>(self, c.index));
  }
}

// -- events ----------------------------------------------------------------------------------------------------------------
void completion_job::enqueue(event e) {
  {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(e));
    if (std::exchange(drain_posted_, true)) return;
  }
  exchange_->post([self = shared_from_this()] { self->drain(); });
}

void completion_job::drain() {
  std::vector<event> events;
  {
    std::lock_guard lock(mutex_);
    events.swap(events_);
    drain_posted_ = false;
  }
  for (auto& e : events) on_event(e);
  if (done_) return;
  flush_stream();
  if (!done_) try_finish();
}

void completion_job::on_event(event& e) {
  choice& c = choices_[e.choice];
  if (auto* end = std::get_if<actors::generation_end>(&e.what)) {
    c.ended = true;
    if (!done_) on_finished(c, std::move(*end));
    return;
  }
  if (done_ || c.closed) return;
  on_accepted(c);
  if (auto* tokens = std::get_if<std::vector<engine::token_output>>(&e.what)) {
    if (e.of_prompt) {
      for (auto& t : *tokens) c.prompt_entries.push_back({std::move(t), 0});
    } else {
      on_tokens(c, std::move(*tokens));
    }
  }
}

void completion_job::on_accepted(choice& c) {
  if (std::exchange(c.admitted, true)) return;
  if (plan_.common.stream && plan_.head.chat)
    show(c, chat_choice_chunk(c.index, ojson{{"role", "assistant"}, {"content", ""}}, nullptr, ""));
}

void completion_job::on_tokens(choice& c, std::vector<engine::token_output> tokens) {
  const auto now = std::chrono::steady_clock::now();
  if (c.last_token == std::chrono::steady_clock::time_point{}) {
    metrics_->first_token(seconds_between(plan_.received, now));
    if (tokens.size() > 1) metrics_->next_tokens(0, tokens.size() - 1);
  } else {
    metrics_->next_tokens(seconds_between(c.last_token, now), tokens.size());
  }
  c.last_token = now;
  if (c.prompt.max_tokens == 0) return;  // scoring
  give_echo(c);
  choice_delta delta;
  for (auto& t : tokens) {
    auto one = c.output.push(std::move(t));
    metrics_->generation_tokens->Increment();
    delta.text += one.text;
    std::move(one.logprobs.begin(), one.logprobs.end(), std::back_inserter(delta.logprobs));
    if (c.output.stopped()) break;
  }
  give(c, std::move(delta));
  if (c.output.stopped()) {
    service_.cancel(c.id);
    close_choice(c, "stop");
  }
}

void completion_job::on_finished(choice& c, actors::generation_end end) {
  c.end = std::move(end);
  if (c.closed) return;
  using engine::finish_reason;
  switch (c.end.reason) {
    case finish_reason::stop:
      return on_accepted(c), close_choice(c, "stop");
    case finish_reason::length:
      return on_accepted(c), close_choice(c, "length");
    case finish_reason::error:
      return fail(c.end.failure, c.end.retry_after);
    case finish_reason::abort: {
      // Nobody here asked for it, so the cluster did.
      const bool untold = c.end.failure.code == ec::internal || c.end.failure.code == ec::none;
      return fail(untold ? error{ec::canceled, "aborted by the cluster"} : c.end.failure);
    }
    case finish_reason::none:
      break;
  }
  fail({ec::internal, "a generation finished without a reason"});
}

void completion_job::close_choice(choice& c, std::string_view reason) {
  give_echo(c);
  choice_delta rest = c.output.flush();
  c.closed = true;
  // A stop string may be completed by what was withheld.
  c.finish_reason = c.prompt.max_tokens == 0 ? "length"
                    : c.output.stopped()     ? "stop"
                                             : std::string(reason);
  if (c.parser) {
    auto events = c.parser->push(std::exchange(rest.text, {}));
    for (auto& e : c.parser->flush()) events.push_back(std::move(e));
    give_calls(c, std::move(events), std::exchange(rest.logprobs, {}));
    if (c.parser->called() && c.finish_reason == "stop" && !c.output.stopped() &&
        !plan_.calls->named)
      c.finish_reason = "tool_calls";
  }
  if (!plan_.common.stream) return give(c, std::move(rest));
  if (plan_.head.chat) {
    give(c, std::move(rest));
    ojson logprobs = c.parser && options_.logprobs && !c.entries.empty()
                         ? logprobs_of(c.entries, 0, 0)
                         : ojson();
    show(c, chat_choice_chunk(c.index, ojson::object(), std::move(logprobs), c.finish_reason));
  } else {
    ojson logprobs = options_.logprobs && !rest.logprobs.empty()
                         ? logprobs_of(rest.logprobs, 0, c.prompt_points)
                         : ojson();
    show(c, completion_choice(c.index, rest.text, std::move(logprobs), c.finish_reason));
  }
}

// -- the end ---------------------------------------------------------------------------------------------------------------
void completion_job::fail(const error& cause, std::chrono::seconds retry_after) {
  if (done_) return;
  api_error e = from_error(cause);
  if (retry_after.count() > 0) e.retry_after = static_cast<int>(retry_after.count());
  // What the client is not told is here, under the id that it has. Overload is no news: it would flood the log.
  const auto level =
      e.status >= 500 && e.status != 503 ? spdlog::level::warn : spdlog::level::debug;
  spdlog::log(level, "request {} failed: {}", plan_.request_id, to_string(cause));
  metrics_->rejected(e);
  if (stream_started_) {
    frames_ += sse_data(to_json_text(e));
    frames_ += sse_done;
    exchange_->write(std::exchange(frames_, {}));
    exchange_->end_stream();
  } else {
    auto response = error_response(e);
    decorate_(response);
    exchange_->respond(std::move(response));
  }
  end(e.status);
}

// Whatever the outcome, every generation that still runs is canceled.
void completion_job::end(int status) {
  if (std::exchange(done_, true)) return;
  cancel_rest();
  metrics_->requests_in_flight->Decrement();
  if (std::exchange(queued_, false)) metrics_->requests_queued->Decrement();
  done_task_(status);
}

void completion_job::cancel_rest() {
  for (auto& c : choices_)
    if (!c.ended && c.id != request_id{}) service_.cancel(c.id);
}

}  // namespace troupe::api
