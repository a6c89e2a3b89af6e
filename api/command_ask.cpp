// `troupe run` and `troupe chat`: clients of a server, which may live in this very process.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <thread>

#include "api/commands.hpp"
#include "api/completion_client.hpp"
#include "api/explanation.hpp"
#include "api/progress.hpp"
#include "api/serving.hpp"
#include "api/stop_signals.hpp"

namespace troupe::api {
namespace {

// Set by Ctrl-C while an answer streams.
volatile std::sig_atomic_t interrupted = 0;

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);  // without SA_RESTART: reading a line ends too
}

serving_result<std::unique_ptr<serving>> serve_here(const ask_config& c) {
  serve_config s;
  s.model = c.model;
  s.node = c.node;
  s.http.port = 0;
  s.http.threads = 1;
  s.prefill = 0;  // one process gains nothing from passing the prompt's blocks around
  s.decode = 1;
  s.single_process = true;
  s.log = c.log;
  auto started = serving::start(s);
  if (!started) return started;
  progress shown;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(10);
  for (;;) {
    const auto status = (*started)->service().status();
    if (status.ready) break;
    if (auto f = (*started)->failure()) return tl::unexpected(*f);
    if (std::chrono::steady_clock::now() > deadline)
      return tl::unexpected(
          serving_failure{{ec::deadline_exceeded, "the model was not ready in time"}, exit_device});
    shown.show(status.loading);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  shown.finish();
  return started;
}

// TROUPE_MODEL is the file that a server serves, and no answer to which of a server's models is meant. Who gives a file
// means the name that it is served by.
std::string asked_model(const ask_config& c) {
  const char* of_environment = std::getenv("TROUPE_MODEL");
  const auto& given = c.model.path;
  if (c.url.empty() || given.empty() || (of_environment != nullptr && given == of_environment))
    return "default";
  std::error_code none;
  const bool is_file = given.extension() == ".gguf" || std::filesystem::exists(given, none);
  return is_file ? base_name(std::filesystem::absolute(given)) : given.string();
}

completion_call call_of(const ask_config& c, const url& to, const nlohmann::json& messages) {
  completion_call call;
  call.to = to;
  call.key = c.key;
  call.body = {{"model", asked_model(c)},
               {"messages", messages},
               {"temperature", c.temperature},
               {"top_p", c.top_p}};
  if (c.max_tokens > 0) call.body["max_tokens"] = c.max_tokens;
  if (c.seed >= 0) call.body["seed"] = c.seed;
  if (c.explain) call.body["return_trace"] = true;
  return call;
}

result<streamed_answer> ask(const ask_config& c, const url& to, const nlohmann::json& messages) {
  interrupted = 0;
  auto answer = stream_completion(call_of(c, to, messages), [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    return interrupted == 0;
  });
  if (!answer) return answer;
  std::fputs("\n", stdout);
  std::fflush(stdout);
  if (c.explain) std::fputs(("\n" + explain(*answer)).c_str(), stderr);
  return answer;
}

nlohmann::json message(const char* role, const std::string& content) {
  return {{"role", role}, {"content", content}};
}

int talk(const ask_config& c, const url& to) {
  catch_interrupts();
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  if (terminal) std::fputs("Ctrl-C stops an answer, /new begins anew, Ctrl-D ends.\n", stderr);
  nlohmann::json start = nlohmann::json::array();
  if (!c.system.empty()) start.push_back(message("system", c.system));
  nlohmann::json messages = start;
  for (std::string line;;) {
    if (terminal) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line)) break;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (line == "/exit") break;
    if (line == "/new") {
      messages = start;
      continue;
    }
    messages.push_back(message("user", line));
    auto answer = ask(c, to, messages);
    if (!answer) {
      messages.erase(messages.size() - 1);
      complain(answer.error(), exit_configuration);
      if (!terminal) return exit_configuration;
      continue;
    }
    messages.push_back(message("assistant", answer->text));
  }
  return exit_clean;
}

int ask_once(const ask_config& c, const url& to) {
  nlohmann::json messages = nlohmann::json::array();
  if (!c.system.empty()) messages.push_back(message("system", c.system));
  messages.push_back(message("user", c.prompt));
  auto answer = ask(c, to, messages);
  return answer ? exit_clean : complain(answer.error(), exit_configuration);
}

}  // namespace

int run_command(const ask_config& c) {
  if (auto ok = start_logging(c.log); !ok) return complain(ok.error(), exit_configuration);
  std::unique_ptr<serving> here;
  std::string address = c.url;
  if (address.empty()) {
    auto started = serve_here(c);
    if (!started) return complain(started.error().cause, started.error().exit_code);
    here = std::move(*started);
    address = here->url();
  }
  auto to = parse_url(address);
  if (!to) return complain(to.error(), exit_configuration);
  const int code = c.chat ? talk(c, *to) : ask_once(c, *to);
  if (here) {
    // That nodes leave when this process ends is no news.
    spdlog::set_level(spdlog::level::off);
    stop_signals().end_within(std::chrono::seconds(5), code);
  }
  return code;
}

}  // namespace troupe::api
