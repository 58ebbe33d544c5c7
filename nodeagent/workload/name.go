package workload

import (
	"regexp"
	"strings"
)

// The labels that Kubernetes' controllers put on Pods, by which a Pod says what
// it is of. containerd has them on the Pod's sandbox.
const (
	labelTemplateHash = "pod-template-hash"                  // of a Deployment's ReplicaSet
	labelRevisionHash = "controller-revision-hash"           // of a DaemonSet or StatefulSet
	labelStatefulPod  = "statefulset.kubernetes.io/pod-name" // the Pod's own name
	labelJob          = "batch.kubernetes.io/job-name"
	labelJobOld       = "job-name" // before Kubernetes 1.27
)

// What controllers append to names. Random letters are of an alphabet without
// vowels and what looks like others; a template's hash is decimal digits in it
// (apimachinery's util/rand). A CronJob's Job has its time, in minutes since
// 1970: dates of this century look otherwise.
var (
	random      = regexp.MustCompile(`-[bcdfghjklmnpqrstvwxz2456789]{5}$`)
	ordinal     = regexp.MustCompile(`-[0-9]+$`)
	cronTime    = regexp.MustCompile(`-(29|3[0-9])[0-9]{6}$`)
	deployments = regexp.MustCompile(`-[456789bcdf]{8,10}-[bcdfghjklmnpqrstvwxz2456789]{5}$`)
)

// nameOf is the name of what a Pod is of: its Deployment, StatefulSet,
// DaemonSet, Job or CronJob. sandbox are the Pod's labels, nil where they are not
// known: then only a Deployment's can be told, by two suffixes that together
// hardly come about by chance. Of all else it is the Pod's own name.
func nameOf(pod string, sandbox map[string]string) string {
	if sandbox == nil {
		return whole(deployments.ReplaceAllString(pod, ""), pod)
	}
	switch job := sandbox[labelJob]; {
	case sandbox[labelTemplateHash] != "":
		set := random.ReplaceAllString(pod, "")
		if name, ok := strings.CutSuffix(set, "-"+sandbox[labelTemplateHash]); ok && set != pod {
			return whole(name, pod)
		}
	case sandbox[labelStatefulPod] == pod:
		return whole(ordinal.ReplaceAllString(pod, ""), pod)
	case sandbox[labelRevisionHash] != "":
		return whole(random.ReplaceAllString(pod, ""), pod)
	default:
		if job == "" {
			job = sandbox[labelJobOld]
		}
		if job != "" && strings.HasPrefix(pod, job+"-") {
			return whole(cronTime.ReplaceAllString(job, ""), job)
		}
	}
	return pod
}

// whole is name, or what it was made of when nothing is left.
func whole(name, of string) string {
	if name == "" {
		return of
	}
	return name
}
